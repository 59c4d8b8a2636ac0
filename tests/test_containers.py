"""Dockerfiles and Kubernetes examples: their commands, flags, ports and paths are those of the package."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan_fast import serve, translate
from cyclegan_fast.cli.flags import flags_of_function
from cyclegan_fast.cli.parse import Grammar
from tests.commands import train_settings

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = sorted((ROOT / "containers").glob("Dockerfile.*"))
EXAMPLES = sorted((ROOT / "examples/kubernetes").glob("*.yaml"))
PORT = 8000  # of the server


def documents() -> list[tuple[str, dict[str, Any]]]:
    """Every object of the examples, with the name of its file."""
    return [(path.name, found) for path in EXAMPLES for found in yaml.safe_load_all(path.read_text("utf-8"))]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in an object."""
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else []:
        yield from nodes(item)


PODS = [(name, node) for name, found in documents() for node in nodes(found) if "containers" in node]
CONTAINERS = [container for _, pod in PODS for container in pod["containers"]]


def check_words(words: list[str]) -> dict[str, Any]:
    """Parses the command line of a container as the package does; returns the flags."""
    if words[0] == "torchrun":
        module = words.index("-m")
        check_torchrun(words[1:module])
        assert words[module + 1] == "cyclegan_fast.train"
        train_settings(words[module + 2 :])
        return {}
    command = {"serve": serve.serve, "translate": translate.translate}[words[0]]
    return Grammar(prog=words[0], flags=flags_of_function(command)).parse(words[1:])


def check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    get_args_parser().parse_args([*words, "script.py"])


def test_every_command_of_the_examples_is_one_of_the_package() -> None:
    commands = [[*container.get("command", []), *container["args"]] for container in CONTAINERS if "args" in container]
    entries = [shlex.split(found["spec"]["entrypoint"]) for _, found in documents() if found["kind"] == "RayJob"]
    assert [entry.pop(0) for entry in entries] == ["cyclegan-fast"]
    assert sorted(words[0] for words in commands + entries) == ["serve", "torchrun", "translate", "translate"]
    for words in commands + entries:
        check_words(words)


def test_the_ranks_of_the_job_are_as_many_as_its_pods() -> None:
    (job,) = (found["spec"] for name, found in documents() if name == "translate-job.yaml")
    (container,) = job["template"]["spec"]["containers"]
    rank = check_words(container["args"])["rank"]
    assert rank == f"$(RANK_OF_POD)/{job['completions']}" and job["completions"] == job["parallelism"]
    assert container["env"][0]["name"] == "RANK_OF_POD"


def test_the_pods_of_the_training_meet_where_the_service_is() -> None:
    service, job = (found for name, found in documents() if name == "train-job.yaml")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    words, name = container["args"], job["metadata"]["name"]
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    port = service["spec"]["ports"][0]["port"]
    assert words[words.index("--rdzv-endpoint") + 1] == f"{name}-0.{service['metadata']['name']}:{port}"
    assert words[words.index("--nnodes") + 1] == str(job["spec"]["completions"])
    assert words[words.index("--nproc-per-node") + 1] == str(container["resources"]["limits"]["nvidia.com/gpu"])


def test_ports_and_paths_are_those_of_the_server() -> None:
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from cyclegan_fast.serving import kserve_routes

    (container,) = (container for container in CONTAINERS if container["name"] == "server")
    assert check_words(container["args"])["port"] == PORT == container["ports"][0]["containerPort"]
    paths = {getattr(route, "path", "") for route in kserve_routes.routes(None).routes}  # type: ignore[arg-type]
    probes = [container[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {probe["path"] for probe in probes} == {"/v2/health/ready", "/v2/health/live"} <= paths
    assert {probe["port"] for probe in probes} == {container["ports"][0]["name"]}
    kinds = {found["kind"]: found for name, found in documents() if name == "server.yaml"}
    pod = kinds["Deployment"]["spec"]["template"]
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(PORT)
    assert f'"{pod["metadata"]["annotations"]["prometheus.io/path"]}"' in (
        (ROOT / "cyclegan_fast/serving/pages.py").read_text("utf-8")
    )
    labels = pod["metadata"]["labels"]
    assert labels == kinds["Service"]["spec"]["selector"] == kinds["Deployment"]["spec"]["selector"]["matchLabels"]
    assert labels == kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert kinds["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == kinds["Deployment"]["metadata"]["name"]


def test_a_pod_has_time_to_answer_what_it_admitted() -> None:
    (pod,) = (pod for name, pod in PODS if name == "server.yaml")
    (container,) = pod["containers"]
    before = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > before + check_words(container["args"])["drain_timeout"]


def test_no_container_runs_as_root_or_may_become_it() -> None:
    assert len(PODS) == 5
    for name, pod in PODS:
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001, name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
            assert set(container["resources"]) == {"requests", "limits"}, name
            assert re.search(r":\d+\.\d+\.\d+-", container["image"]), f"{name}: a tag that does not move"


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_images_serve_as_a_plain_user(path: Path) -> None:
    text = path.read_text("utf-8").replace("\\\n", " ")
    found = dict(re.findall(r"^([A-Z]+) (.*)$", text, re.MULTILINE))
    assert json.loads(found["ENTRYPOINT"]) == ["cyclegan-fast"]
    flags = check_words(json.loads(found["CMD"]))
    assert flags["port"] == PORT == int(found["EXPOSE"]) and flags["host"] == "0.0.0.0"
    assert f"127.0.0.1:{PORT}/v2/health/ready" in found["HEALTHCHECK"]
    assert found["USER"] == "10001:10001"
    for image in re.findall(r"^FROM (\S+)", text, re.MULTILINE):
        assert ":" in image and not image.endswith(":latest")
    assert re.search(r'^ARG TORCH_INDEX=""$', text, re.MULTILINE) and 'PIP_INDEX_URL="${TORCH_INDEX}" pip' in text
    assert set(re.findall(r"https?://([\w.-]+)", text)) == {"127.0.0.1"}, "packages have names, and no hosts"
    extras = set(re.search(r"^ARG EXTRAS=(\S+)", text, re.MULTILINE)[1].split(","))  # type: ignore[index]
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    assert re.findall(r"docker build -f (\S+)", text) == [f"containers/{path.name}"]
    for words in re.findall(r"cyclegan-fast:\w+ (translate .*)", text):
        check_words(shlex.split(words))


def test_an_image_gets_what_the_build_reads_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines and all((ROOT / name).exists() for name in allowed)
    assert allowed == {
        *("cyclegan_fast", "csrc", "build_backend.py", "CMakeLists.txt", "LICENSE", "pyproject.toml", "README.md"),
        "setup.py",
    }
