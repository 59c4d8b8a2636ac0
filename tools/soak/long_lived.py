"""The process that lives through a whole soak: it trains, infers, translates and exports, again and again.

Reads a line of JSON for each cycle, ``{"cycle": 3, "run": path or null, "export": true}``, and prints one with what the
process holds after it: ``{"rss", "threads", "files", "children", "objects"}``.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

import cyclegan_fast
from cyclegan_fast.engine.translation.files import translate_files
from cyclegan_fast.engine.translation.tasks import plan_tasks

SETTINGS: dict[str, Any] = {
    "generator": "resnet_1blocks",
    "ngf": 4,
    "ndf": 4,
    "load_size": 36,
    "crop_size": 32,
    "device": "cpu",
}


def main(data: Path, work: Path) -> None:
    """Answers each line of stdin once its cycle is done."""
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # what is logged
        engine = None
        for line in sys.stdin:
            order = json.loads(line)
            _train(data, work / "in_process", order["cycle"])
            if engine is None:  # it stays for the whole soak, the others come and go
                engine = cyclegan_fast.load_engine(work / "in_process")
            _infer(engine, order["cycle"])
            if order["run"]:
                with cyclegan_fast.load_engine(order["run"]) as trained:
                    _infer(trained, order["cycle"])
            _translate(engine, data / "testA", work / "in_process_translated")
            if order["export"]:
                path = cyclegan_fast.build_engine(work / "in_process", work / "in_process.onnx")
                with cyclegan_fast.load_engine(path) as exported:
                    _infer(exported, order["cycle"])
            gc.collect()
            answers.write(json.dumps(held()) + "\n")


def held() -> dict[str, int]:
    """What this process holds: bytes of memory, threads, open files, child processes and objects."""
    folder = Path("/proc/self")
    fields = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    children = (task / "children" for task in (folder / "task").iterdir())
    return {
        "rss": int(fields["VmRSS"].split()[0]) * 1024,
        "threads": int(fields["Threads"]),
        "files": len(os.listdir(folder / "fd")),  # noqa: PTH208 - a Path would be one more
        "children": sum(len(path.read_text().split()) for path in children if path.exists()),
        "objects": len(gc.get_objects()),
    }


def _train(data: Path, out: Path, cycle: int) -> None:
    """A few steps, by each loader in turn, of a run that begins anew."""
    shutil.rmtree(out, ignore_errors=True)
    loader = {"loader": "torch", "workers": cycle // 2 % 2} if cycle % 2 else {"loader": "cache"}
    cyclegan_fast.fit(
        data=data, out=out, max_steps=6, sample_every=3, log_every=2, progress=False, **SETTINGS, **loader
    )


def _infer(engine: cyclegan_fast.Engine, cycle: int) -> None:
    generator = np.random.default_rng(cycle)
    sides = generator.integers(16, 80, (4, 2))
    images = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sides]
    futures = [cyclegan_fast.infer_async(engine, image) for image in images]
    results = [*cyclegan_fast.infer(engine, images), *(future.result() for future in futures)]
    if any(a.shape != b.shape for a, b in zip([*images, *images], results, strict=True)):
        raise RuntimeError(f"results of other sizes: {[result.shape for result in results]}")


def _translate(engine: cyclegan_fast.Engine, images: Path, out: Path) -> None:
    shutil.rmtree(out, ignore_errors=True)
    faults = [result.fault for result in translate_files(engine, plan_tasks(images, out)) if result.fault]
    if faults:
        raise RuntimeError(f"not translated: {faults[0]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
