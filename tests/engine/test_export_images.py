"""build_engine(images=): which images are used, and what an engine that is refused is answered with."""

from pathlib import Path

import pytest
from PIL import Image

from cyclegan_fast.data.catalog.quarantine import list_usable_images
from cyclegan_fast.engine import build_engine
from cyclegan_fast.engine.export import build, parity
from cyclegan_fast.engine.export.parity import BOUNDS, Parity
from cyclegan_fast.errors import UserError
from tests.engine.test_inference import pixels


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder whose testA holds three images and a damaged one, which its list names."""
    (tmp_path / "testA").mkdir()
    for i in range(3):
        Image.fromarray(pixels(32, 32, 3, seed=i)).save(tmp_path / f"testA/{i}.png")
    (tmp_path / "testA" / "bad.png").write_bytes(b"no image")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


@pytest.mark.parametrize(("place", "prefix"), [(".", "testA/"), ("testA", "")], ids=["data folder", "own folder"])
@pytest.mark.parametrize("relative", [False, True])
def test_the_quarantine_list_is_minded(place, prefix, relative, data, monkeypatch, caplog):
    caplog.set_level("INFO")
    (data / place / "quarantine.txt").write_text(f"# damaged\n{prefix}bad.png\n{prefix}1.png\n")
    monkeypatch.chdir(data)
    folder = Path("testA") if relative else data / "testA"
    assert names(list_usable_images(folder)) == ["0.png", "2.png"]
    assert f"{folder}: 2 of 4 images are left out, as quarantine.txt names them" in caplog.messages


def test_without_a_list_all_images_are_used(data, caplog):
    caplog.set_level("INFO")
    assert names(list_usable_images(data / "testA")) == ["0.png", "1.png", "2.png", "bad.png"]
    assert not caplog.messages


def test_a_build_uses_no_image_that_the_list_names(data, runs, tmp_path, monkeypatch):
    used = []
    check = parity.check_parity
    monkeypatch.setattr(build, "check_parity", lambda *a: (used.extend(names(a[2])), check(*a))[1])
    with pytest.raises(UserError, match=r"bad\.png: not an image"):
        build_engine(runs["colour"], tmp_path / "a.onnx", images=data / "testA")
    (data / "quarantine.txt").write_text("testA/bad.png\n")
    used.clear()
    build_engine(runs["colour"], tmp_path / "a.onnx", images=data / "testA")
    assert used == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("precision", "fix"),
    [
        ("int8", "calibrate on more varied images of its domain (32 of those given are used), or use fp16 or bf16"),
        ("fp8", "calibrate on more varied images"),
        ("fp16", "use bf16"),
        ("bf16", "use fp16"),
        ("fp32", "its weights may hold values that are far too large"),
    ],
)
def test_a_refused_precision_is_answered_with_what_to_try(precision, fix, monkeypatch):
    class Engine:
        device, run = "cpu", None

    Engine.precision = precision
    bound = BOUNDS[precision]
    monkeypatch.setattr(parity, "measure_parity", lambda *_: Parity(bound.max * 2, bound.mean, bound.psnr))
    generator = type("Generator", (), {"network": None})
    with pytest.raises(UserError) as caught:
        parity.check_parity(Engine, generator)
    assert f"{precision} is allowed max" in str(caught.value) and f": {fix}" in str(caught.value)
