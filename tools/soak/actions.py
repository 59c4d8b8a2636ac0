"""What a soak does in processes of their own, which are killed at random, and what must be true afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from cyclegan_fast.checkpoint import native
from cyclegan_fast.config import PixelFormat
from cyclegan_fast.data.scenes import render_dataset
from cyclegan_fast.engine import load_engine
from cyclegan_fast.images.decode import read
from cyclegan_fast.monitoring.events import read_events
from tools.soak.long_lived import SETTINGS

SIDE = 32  # pixels
TRAIN_IMAGES, TEST_IMAGES = 12, 40
ENDS = {"kill": signal.SIGKILL, "stop": signal.SIGTERM}
_STOPPED = {"train": {3, -signal.SIGTERM}, "translate": {130, -signal.SIGTERM}, "export": {130, -signal.SIGTERM}}
_END_LIMIT = 120  # seconds until a process has ended after SIGTERM; it may be writing a checkpoint
_LONGEST = 16.0  # seconds after which a process is ended; much of it passes while torch is imported


class Broken(Exception):  # noqa: N818 - what a soak is for is no error of its own
    """A promise that was not kept."""


class Soak:
    """A run, its translations and its exports, in one folder.

    Args:
        work: The folder.
        seed: Of everything that is random.
    """

    def __init__(self, work: Path, seed: int) -> None:
        self.random, self.work = random.Random(seed), work
        self.data, self.run, self.translated = work / "data", work / "run", work / "translated"
        self.counts, self.step, self.exports = Counter[str](), 0, 0
        render_dataset(self.data, SIDE, TRAIN_IMAGES, TEST_IMAGES, seed=seed)

    def act(self) -> str:
        """Does one thing, and checks what is there then; returns what it was.

        Raises:
            Broken: Something is not as it should be.
        """
        if self.step == 0:
            action = "train"
        else:
            action = self.random.choices(["train", "translate", "export"], [6, 3, 2])[0]
        how = {"train": self._train, "translate": self._translate, "export": self._export}[action]()
        self.counts[f"{action}: {how}"] += 1
        return f"{action}: {how}"

    def _train(self) -> str:
        """Goes on with the run, until a signal or its last step."""
        end = self.random.choice(["kill", "kill", "stop", "finish"])
        steps = self.step + self.random.randint(10, 40) if end == "finish" else 10**6
        loader, workers = self.random.choice([("cache", 1), ("torch", 0), ("torch", 1)])
        words = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
        words += [f"--data={self.data}", f"--out={self.run}", "--resume=auto", f"--max-steps={steps}"]
        words += ["--checkpoint-every=4", "--sample-every=6", "--log-every=2", "--n-epochs=100000"]
        how = self._process("train", [*words, f"--loader={loader}", f"--workers={workers}"], end)
        self._check_run(clean=how != "kill", finished=steps if how == "finish" else None)
        return how

    def _translate(self) -> str:
        """Translates the test images, goes on if it was ended early, and looks at every result."""
        words = [f"--engine={self.run}", f"--input={self.data / 'testA'}", f"--output={self.translated}", "--resume"]
        if fresh := self.random.random() < 0.5:
            words[-1] = "--overwrite"
        how = self._process("translate", words, self.random.choice(["kill", "stop", "finish"]))
        self._check_images()
        if how != "finish":
            again = self._process("translate", [*words[:-1], "--resume"], "finish")
            if again != "finish":
                raise Broken(f"translate --resume did not finish: {again}")
        names = {path.name for path in self._check_images()}
        if names != {path.name for path in (self.data / "testA").iterdir()}:
            raise Broken(f"translate has left {sorted(names)}")
        self._check_leftovers(self.translated)
        return f"{how}, {'overwrite' if fresh else 'resume'}"

    def _export(self) -> str:
        """Exports the newest checkpoint; what there is then, if it was killed, is whole."""
        self.exports += 1
        path = self.work / "exports" / f"{self.exports}.onnx"
        words = [f"--checkpoint={self.run}", f"--out={path}", "--direction=AtoB"]
        how = self._process("export", words, self.random.choice(["kill", "finish", "finish"]))
        if path.is_file():
            with load_engine(path) as engine:
                if engine.direction != "AtoB":
                    raise Broken(f"the export holds {engine.direction}")
        elif how == "finish":
            raise Broken("export has written nothing")
        if how == "finish":
            self._check_leftovers(path.parent)
        return how

    def _process(self, command: str, words: list[str], end: str) -> str:
        """Runs a command and ends it at a random moment; returns how it ended: kill, stop or finish.

        Raises:
            Broken: It failed, would not end, or left a process behind.
        """
        log = self.work / f"{command}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", f"cyclegan_fast.{command}", *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(None if end == "finish" else self.random.uniform(0.2, 1.0) * _LONGEST)
                end = "finish"  # by itself, before its time came
            except subprocess.TimeoutExpired:
                process.send_signal(ENDS[end])
                try:
                    process.wait(_END_LIMIT)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise Broken(f"{command} does not end on {ENDS[end].name}") from None
        expected = {"finish": {0}, "kill": {-signal.SIGKILL}, "stop": _STOPPED[command] | {0}}[end]
        if process.returncode not in expected:
            raise Broken(
                f"{command} ({end}) ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}"
            )
        self._check_orphans(process.pid)
        return end

    def _check_run(self, *, clean: bool, finished: int | None) -> None:
        """Every checkpoint is whole and loads, no step is lost, and nothing lies about after a clean end."""
        newest = native.latest_checkpoint(self.run)
        if newest is None:
            if clean and finished is not None:
                raise Broken("a finished run has no checkpoint")
            return
        for checkpoint in sorted(newest.parent.glob("step_*")):
            native.verify(checkpoint)
            native.load_generators(checkpoint)
            native.load_state(checkpoint)
            self.counts["checkpoints that were loaded"] += 1
        step = native.read_settings(newest).progress["step"]
        saved = step > self.step  # one that is stopped before its first step has cleared nothing
        if step < self.step or (finished is not None and step != finished):
            raise Broken(f"the newest checkpoint is of step {step}, after {finished or self.step}")
        self.step = step
        read_events(self.run)
        json.loads((self.run / "status.json").read_text())
        if clean and saved:
            self._check_leftovers(self.run)

    def _check_images(self) -> list[Path]:
        """Every image that is there is whole."""
        found = [path for path in self.translated.glob("*") if not path.name.startswith(".")]
        for path in found:
            if read(path, PixelFormat()).shape != (SIDE, SIDE, 3):
                raise Broken(f"{path} has another size")
        self.counts["translations that were read"] += len(found)
        return found

    def _check_leftovers(self, folder: Path) -> None:
        if found := list(folder.rglob(".partial-*")):
            raise Broken(f"left behind: {', '.join(map(str, found))}")

    def _check_orphans(self, session: int) -> None:
        """No process that a command has started outlives it by long."""
        for _ in range(100):
            if not (left := processes_of(session)):
                return
            time.sleep(0.2)
        raise Broken(f"processes outlive their command: {left}")


def processes_of(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):  # noqa: PTH208
        try:
            state, _, _, of_session = (Path("/proc") / name / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended meanwhile
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(name))
    return found
