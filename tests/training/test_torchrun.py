"""Training as torchrun starts it: on two hosts, which are network namespaces with a cable between them, and on one."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.data.sample_images import noise
from tests.training.ranks import free_port
from tests.training.test_rank_runs import SMALL
from tests.training.test_train_command import newest, records

STEPS = 40


@dataclass
class Host:
    """Where one torchrun runs."""

    address: str
    prefix: list[str] = field(default_factory=list)  # of a command there
    interface: str = "lo"


@pytest.fixture(params=["two hosts", "one host"])
def hosts(request: pytest.FixtureRequest) -> Iterator[list[Host]]:
    """Two network namespaces, or this host twice."""
    if request.param == "one host":
        yield [Host("127.0.0.1"), Host("127.0.0.1")]
        return
    names = [f"cf{os.getpid()}{side}" for side in "ab"]
    commands = [
        *(["ip", "netns", "add", name] for name in names),
        ["ip", "link", "add", names[0], "netns", names[0], "type", "veth", "peer", "name", names[1], "netns", names[1]],
    ]
    for i, name in enumerate(names):
        commands += [
            ["ip", "-n", name, "address", "add", f"10.231.77.{i + 1}/24", "dev", name],
            *(["ip", "-n", name, "link", "set", device, "up"] for device in ("lo", name)),
        ]
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True)
        yield [Host(f"10.231.77.{i + 1}", ["ip", "netns", "exec", name], name) for i, name in enumerate(names)]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine makes no network namespaces: {getattr(error, 'stderr', None) or error}")
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for domain in ("trainA", "trainB"):
        (tmp_path / "images" / domain).mkdir(parents=True)
        for i in range(6):
            noise(24, 22, seed=i).save(tmp_path / "images" / domain / f"{i}.png")
    return tmp_path / "images"


@contextlib.contextmanager
def torchrun(hosts: list[Host], folder: Path, *words: object) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Starts one on each host, whose output goes to files; ends all that is left of them."""
    port, agents = free_port(), []
    for i, host in enumerate(hosts):
        command = [
            *host.prefix, sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
            "--rdzv-backend", "c10d", "--rdzv-conf", f"is_host={int(i == 0)}",
            "--rdzv-endpoint", f"{hosts[0].address}:{port}", "--rdzv-id", folder.name,
            "--local-addr", host.address, "--max-restarts", "3", "-m", "cyclegan_fast.train", *map(str, words),
        ]  # fmt: skip
        with (folder / f"host_{i}.txt").open("wb") as output:
            environment = os.environ | {"GLOO_SOCKET_IFNAME": host.interface, "OMP_NUM_THREADS": "1"}
            agents.append(
                subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
                )
            )
    try:
        yield agents
    finally:
        for agent in agents:
            for pid in family(agent.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            agent.wait()


def family(pid: int) -> list[int]:
    """A process and all that it has started, itself first."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def worker(agent: subprocess.Popen[bytes]) -> int:
    """The process of the rank that an agent has started."""
    for pid in family(agent.pid)[1:]:
        if re.search(rb"\0RANK=\d", b"\0" + Path(f"/proc/{pid}/environ").read_bytes()):
            return pid
    raise AssertionError("there is no rank")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces and /proc are Linux's")
def test_two_torchruns_train_together_and_go_on_after_one_process_was_killed(
    images: Path, tmp_path: Path, hosts: list[Host]
) -> None:
    out = tmp_path / "run"
    words = [*SMALL, "--data", images, "--out", out, "--checkpoint-every", 5, "--max-steps", STEPS]

    def shown() -> str:
        return "\n".join((tmp_path / f"host_{i}.txt").read_text() for i in range(2))

    with torchrun(hosts, tmp_path, *words) as agents:
        deadline = time.monotonic() + 200
        while not list((out / "checkpoints").glob("step_*")):
            assert time.monotonic() < deadline and all(agent.poll() is None for agent in agents), shown()
            time.sleep(0.05)
        os.kill(worker(agents[1]), signal.SIGKILL)
        for agent in agents:
            assert agent.wait(200) == 0, shown()
    assert "continuing" in shown() and shown().count("2 processes train together") == 2
    assert newest(out).name == f"step_{STEPS:08d}"
    assert [record["step"] for record in records(out)] == list(range(1, STEPS + 1))
