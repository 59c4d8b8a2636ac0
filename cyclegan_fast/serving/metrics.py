"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from cyclegan_fast.serving.batcher import Observer
from cyclegan_fast.serving.models import Model

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("engine", "endpoint")
        self._requests = Counter(
            "cyclegan_requests", "Requests by what answered them", (*labels, "status"), registry=self._registry
        )
        self._latency = Histogram(
            "cyclegan_request_seconds",
            "From a request's head to the end of its answer",
            labels,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batches = Histogram(
            "cyclegan_batch_images", "Images of a batch", ("engine",), buckets=_IMAGES, registry=self._registry
        )
        self._compute = Histogram(
            "cyclegan_batch_seconds",
            "That the engine takes for a batch",
            ("engine",),
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch(self, models: Mapping[str, Model]) -> None:
        """Adds the queues of the models, which are read when somebody asks."""
        self._registry.register(_Queues(models))

    def observer_of(self, name: str) -> Observer:
        """What a model calls with each batch."""

        def observe(images: int, seconds: float) -> None:
            self._batches.labels(name).observe(images)
            self._compute.labels(name).observe(seconds)

        return observe

    def count(self, engine: str, endpoint: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(engine, endpoint, str(status)).inc()
        self._latency.labels(engine, endpoint).observe(seconds)

    def text(self) -> bytes:
        """All of them, in Prometheus' format."""
        return generate_latest(self._registry)


class _Queues(Collector):
    """How many images wait, and how many are admitted in all."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models

    def collect(self) -> list[GaugeMetricFamily]:
        """Reads the queues."""
        waiting = GaugeMetricFamily("cyclegan_queue_images", "Images that wait for the engine", labels=["engine"])
        admitted = GaugeMetricFamily(
            "cyclegan_admitted_images", "Images that are read, wait or are computed", labels=["engine"]
        )
        for name, model in self._models.items():
            loaded = model.loaded
            waiting.add_metric([name], 0 if loaded is None else loaded.batcher.waiting)
            admitted.add_metric([name], 0 if loaded is None else loaded.users)
        return [waiting, admitted]
