"""kill -9 at any moment of a translation: whatever has its final name is whole, and the next run clears the rest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.sample_images import noise

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks and kills of POSIX")

# Forks a translation again and again, and kills each once it has written some more results; prints after each what
# there is: how many results, those that are not what an undisturbed run writes, and how many leftovers.
KILLER = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
import cyclegan_fast.engine.translation.files, cyclegan_fast.engine, cyclegan_fast.monitoring.progress
from cyclegan_fast.translate import translate

engine, source, out, whole, kills = *map(Path, sys.argv[1:5]), int(sys.argv[5])
draws = random.Random(0)

def run(output):
    return translate(
        engine=engine, input=source, output=output, device="cpu", threads=1, batch_size=1, resume=True,
        statistics="tile", tile=32,
    )

def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]

def results():
    return [path for path in files(out) if not path.name.startswith(".partial-")]

def fork(output):
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        os._exit(run(output))
    except BaseException:
        os._exit(99)

assert os.waitpid(fork(whole), 0)[1] == 0
expected = {path.relative_to(whole): hashlib.sha256(path.read_bytes()).digest() for path in files(whole)}

def report(ended):
    found = {path.relative_to(out): hashlib.sha256(path.read_bytes()).digest() for path in results()}
    bad = [str(path) for path, digest in found.items() if expected.get(path) != digest]
    print(json.dumps({
        "ended": ended, "results": len(found), "bad": bad, "leftovers": len(files(out)) - len(found),
    }), flush=True)

def is_writing():
    folders = filter(Path.is_dir, (out, out / "deep"))
    return any(name.startswith(".partial-") for folder in folders for name in os.listdir(folder))

def has_ended(pid):
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

def is_stopped_while_writing(pid):
    if is_writing():
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        if is_writing():
            return True
        os.kill(pid, signal.SIGCONT)
    return False

for kill in range(kills):
    wanted = len(results()) + draws.randrange(3)
    pid = fork(out)
    until = time.monotonic() + 120
    while time.monotonic() < until and not has_ended(pid):
        if len(results()) >= wanted and (kill % 2 == 0 or is_stopped_while_writing(pid)):
            break
    if kill % 2 == 0:
        time.sleep(draws.uniform(0, 0.02))
    os.kill(pid, signal.SIGKILL)  # to one that has ended by itself it does nothing
    report(not os.WIFSIGNALED(os.waitpid(pid, 0)[1]))
assert os.waitpid(fork(out), 0)[1] == 0
report(True)
"""


@pytest.mark.slow
def test_every_file_under_a_final_name_is_whole(tmp_path: Path, runs) -> None:
    folder = tmp_path / "in"
    for i in range(32):
        suffix = ("png", "jpg", "tif", "webp")[i % 4]
        path = folder / ("deep" if i % 3 else "") / f"{i:02d}.{suffix}"
        path.parent.mkdir(exist_ok=True, parents=True)
        noise(40 + 40 * (i % 2), 48, i).save(path, icc_profile=None, exif=_exif())
    command = [sys.executable, "-c", KILLER, runs["colour"], folder, tmp_path / "out", tmp_path / "whole", "8"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert all(found["bad"] == [] for found in rounds), rounds
    killed = [found for found in rounds if not found["ended"]]
    assert len(killed) >= 3, rounds
    assert any(found["leftovers"] for found in killed), "no kill came while a file was being written"
    assert rounds[-1] == {"ended": True, "results": 32, "bad": [], "leftovers": 0}
    for path in (tmp_path / "out").rglob("*.*"):
        with Image.open(path) as image:
            image.load()
            assert image.getexif()[271] == "Maker" and np.asarray(image).std() > 1


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[271] = "Maker"
    return exif
