"""How many GPUs would train together: the table of predictions in docs/scaling.md, by arithmetic alone.

    python -m benchmarks.scaling

The times of a step, and of the last gradients in it, are predictions of docs/results/launches.md, and the gradients are
those of the networks. A ring moves 2 (N - 1) / N times the bytes through the slowest connection; hops are those of a
tree, up and down. The discriminators' gradients leave when the weight gradients begin that the passes of a generator
share, and those of the generators in parts, each as soon as it is computed and the connection is free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.time_model import JOINT
from cyclegan_fast.config import ModelConfig
from cyclegan_fast.nn import build_networks
from cyclegan_fast.training.base_step import GENERATOR_PARTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
GPUS_OF_A_HOST = 8
USABLE = 0.8  # of the bandwidth of a data sheet
STEP = "step, bf16"
HOP_IN_A_HOST, HOP_BETWEEN_HOSTS = 3e-3, 5e-3  # ms
LARGER_BATCH = 4  # whose step is taken to be as many times longer


@dataclass(frozen=True)
class Cluster:
    """GPUs, and what the slowest connection between them carries in one direction."""

    gpus: int
    connection: str
    gigabytes_per_second: float

    def all_reduce(self, megabytes: float) -> float:
        """Returns the milliseconds of an all-reduce."""
        hosts = -(-self.gpus // GPUS_OF_A_HOST)
        hops = HOP_IN_A_HOST + HOP_BETWEEN_HOSTS * (hosts - 1).bit_length()
        return 2 * (self.gpus - 1) / self.gpus * megabytes / (USABLE * self.gigabytes_per_second) + 2 * hops

    def waited(self, megabytes: dict[str, float], computing: float) -> float:
        """Returns the milliseconds that a step waits, once the last gradients are computed.

        Args:
            megabytes: Of the gradients, of the generators ("G") and of the discriminators ("D").
            computing: The milliseconds in which the generators' last gradients are computed.
        """
        done, part = self.all_reduce(megabytes["D"]), self.all_reduce(megabytes["G"] / GENERATOR_PARTS)
        for i in range(1, GENERATOR_PARTS + 1):
            done = max(done, computing * i / GENERATOR_PARTS) + part
        return done - computing


CLUSTERS = [
    Cluster(8, "one host, NVLink", 450),
    Cluster(64, "8 adapters of 400 Gb/s", 8 * 50),
    Cluster(512, "8 adapters of 400 Gb/s", 8 * 50),
    Cluster(64, "1 adapter of 400 Gb/s", 50),
    Cluster(512, "1 adapter of 400 Gb/s", 50),
    Cluster(64, "1 adapter of 100 Gb/s", 12.5),
]


def predicted_milliseconds(row: str) -> float:
    """Returns the time of a row of launches.md with a batch of 1, the cycles side by side, as that page predicts it."""
    page = (DOCS / "results" / "launches.md").read_text("utf-8")
    (found,) = re.findall(rf"^\| {row} \| [\d.]+ \| ([\d.]+) \|$", page, re.MULTILINE)
    return float(found)


def gradient_megabytes() -> dict[str, float]:
    """Returns what the gradients in float32 take, of the generators ("G") and of the discriminators ("D")."""
    with torch.device("meta"):
        networks = build_networks(ModelConfig())
    return {
        kind: sum(4e-6 * w.numel() for name, net in networks.items() if name[0] == kind for w in net.parameters())
        for kind in "GD"
    }


def table() -> list[str]:
    """Returns the lines of the table."""
    step, megabytes = predicted_milliseconds(STEP), gradient_megabytes()
    share = predicted_milliseconds(JOINT) / step
    lines = [
        "| GPUs | between hosts | all gradients | of them waited for | a step, batch 1 | efficiency | "
        f"images/s of each domain | efficiency, batch {LARGER_BATCH} |",
        "|---" * 8 + "|",
    ]
    for cluster in CLUSTERS:
        everything, waited = cluster.all_reduce(sum(megabytes.values())), cluster.waited(megabytes, share * step)
        together = step + waited
        efficiency, of_larger = (
            100 * alone / (alone + cluster.waited(megabytes, share * alone)) for alone in (step, LARGER_BATCH * step)
        )
        lines.append(
            f"| {cluster.gpus} | {cluster.connection} | {_two_digits(everything)} ms | {_two_digits(waited)} ms | "
            f"{together:.1f} ms | {efficiency:.0f} % | {_two_digits(1e3 * cluster.gpus / together)} | "
            f"{of_larger:.0f} % |"
        )
    return lines


def _two_digits(value: float) -> str:
    return f"{value:#.2g}".removesuffix(".") if value < 100 else f"{float(f'{value:.2g}'):,.0f}"


if __name__ == "__main__":
    print("\n".join(table()))
