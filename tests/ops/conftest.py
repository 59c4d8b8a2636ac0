import pytest
import torch
from ops_helpers import DEVICES

from cyclegan_fast import ops


@pytest.fixture(autouse=True)
def _fresh_inputs() -> None:
    """Every run draws new inputs; the seed is in the report of a failure."""
    print("seed", torch.seed())


@pytest.fixture(params=[pytest.param(d, marks=pytest.mark.gpu) if d == "cuda" else d for d in DEVICES])
def device(request: pytest.FixtureRequest) -> str:
    if not ops.extension_available():
        pytest.skip(f"these tests are for the kernels: {ops.extension_error()}")
    if request.param == "cuda" and not ops.build_info()["cuda_archs"]:
        pytest.skip("the extension was built without CUDA")
    return request.param
