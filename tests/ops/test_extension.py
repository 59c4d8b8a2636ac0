"""With and without the compiled module: what is said, what is refused, what runs instead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import torch

from cyclegan_fast import ops
from cyclegan_fast.ops.extension import runs_reference

# Makes the import of the compiled module fail as it does where it was never built.
WITHOUT = "import sys; sys.modules['cyclegan_fast._C'] = None; "
USE = (
    "import torch; from cyclegan_fast import ops; "
    "print(ops.extension_available(), ops.instance_norm_act(torch.ones(1, 1, 2, 2)).shape)"
)


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)


def test_without_the_extension_the_reference_takes_over_and_says_so_once() -> None:
    done = run_python(WITHOUT + USE, CYCLEGAN_FAST_REQUIRE_EXT="0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("False torch.Size([1, 1, 2, 2])")
    assert done.stderr.count("plain-torch reference takes over") == 1


def test_require_ext_makes_that_an_error() -> None:
    done = run_python(WITHOUT + USE, CYCLEGAN_FAST_REQUIRE_EXT="1")
    assert done.returncode != 0
    assert "UserError: cyclegan_fast._C did not load" in done.stderr and "pip install" in done.stderr


def test_build_info() -> None:
    info = ops.build_info()
    assert (ops.extension_error() is None) == ops.extension_available() == bool(info)
    if info:
        assert set(info) == {"version", "compiler", "cuda", "cuda_archs", "isa"}
        assert (info["cuda"] is None) == (info["cuda_archs"] == [])


def test_use_reference_nests_and_is_per_thread() -> None:
    x, seen = torch.ones(1), []
    outside = runs_reference(x)
    with ops.use_reference():
        with ops.use_reference():
            pass
        assert runs_reference(x)
        thread = threading.Thread(target=lambda: seen.append(runs_reference(x)))
        thread.start()
        thread.join()
    assert seen == [outside] and runs_reference(x) == outside
