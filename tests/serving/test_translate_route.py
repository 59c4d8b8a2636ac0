"""POST /translate and /faithfulness: image files in, the same kind out; and the routes around them."""

from __future__ import annotations

import base64
import functools
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from cyclegan_fast.checkpoint import save_checkpoint
from cyclegan_fast.config import ModelConfig, TrainConfig
from cyclegan_fast.engine import load_engine
from cyclegan_fast.evaluation.faithfulness import MAPS, SCORES, measure
from cyclegan_fast.monitoring.heat_map import heat_map
from cyclegan_fast.nn import build_networks
from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.models import open_engines, read_source
from cyclegan_fast.translate import main as translate
from tests.commands import run_in_process
from tests.engine.identity import Identity
from tests.serving.running import Running, pixels_of, png, running


@pytest.fixture(scope="module")
def server(run_folder: Path):
    engines = {
        "identity": Identity(),
        "grey": Identity(1),
        "twice": Identity(scale=2),
        "tiny": functools.partial(open_engines, read_source(str(run_folder)), device="cpu"),
    }
    with running(engines, Limits(max_pixels=128 * 128)) as server:
        yield server


def encoded(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def form(content: bytes, field: str = "file", filename: str = "a.png") -> tuple[bytes, dict[str, str]]:
    head = f'--XX\r\nContent-Disposition: form-data; name="{field}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--XX--\r\n", {"Content-Type": "multipart/form-data; boundary=XX"}


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_the_same_pixels_come_back_in_the_same_kind_of_file(server: Running, kind: str) -> None:
    pixels = pixels_of(1, 23, 17)
    answer = server.post("/translate", encoded(pixels, kind))
    assert (answer.status, answer.headers["content-type"]) == (200, f"image/{kind.lower()}")
    assert np.array_equal(answer.pixels, pixels)
    with Image.open(io.BytesIO(answer.body)) as image:
        assert image.format == kind


def test_a_format_may_be_asked_for(server: Running) -> None:
    pixels = pixels_of(2)
    for word, kind in (("png", "PNG"), ("jpeg", "JPEG"), ("tiff", "TIFF"), ("webp", "WEBP")):
        answer = server.post(f"/translate?format={word}", png(pixels))
        with Image.open(io.BytesIO(answer.body)) as image:
            assert (answer.status, image.format, image.size) == (200, kind, (24, 16))
    answer = server.post("/translate?format=exe", png(pixels))
    assert answer.status == 422 and answer.error.startswith("format: ")


def test_a_form_holds_the_file(server: Running) -> None:
    pixels = pixels_of(3)
    assert np.array_equal(server.post("/translate", *form(png(pixels))).pixels, pixels)
    large = pixels_of(4, 128, 128)  # and one in pieces
    assert np.array_equal(server.post("/translate", *form(encoded(large, "TIFF"))).pixels, large)


def test_a_16_bit_image_keeps_its_bits_and_an_image_turned_by_exif_comes_upright(server: Running) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (16, 24), dtype=np.uint16)
    answer = server.post("/translate?engine=grey", encoded(deep, "PNG"))
    assert answer.pixels.dtype == np.uint16 and np.array_equal(answer.pixels, deep)
    turned = Image.fromarray(pixels_of(5))
    turned.getexif()[0x0112] = 6
    answer = server.post("/translate", encoded(turned, "PNG", exif=turned.getexif()))
    assert np.array_equal(answer.pixels, np.rot90(pixels_of(5), -1))


def test_where_an_image_was_taken_is_left_out(server: Running) -> None:
    image = Image.fromarray(pixels_of(6))
    exif = image.getexif()
    exif[0x010F], exif.get_ifd(0x8825)[1] = "a camera", "N"
    content = encoded(image, "JPEG", exif=exif, quality=95)
    answer = server.post("/translate", content)
    assert b"a camera" in content and b"a camera" not in answer.body


def test_a_file_is_that_of_the_command(server: Running, run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, kind in (("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.tif", "TIFF")):
        (tmp_path / "in" / name).write_bytes(encoded(pixels_of(7, 45, 33), kind))
    words = f"--engine {run_folder} --input {tmp_path / 'in'} --output {tmp_path / 'out'} --metadata technical"
    done = run_in_process(lambda: translate([*words.split(), "--device", "cpu"]))
    assert done.returncode == 0, done.stderr
    for path in (tmp_path / "in").iterdir():
        answer = server.post("/translate?engine=tiny", path.read_bytes())
        assert answer.body == (tmp_path / "out" / path.name).read_bytes()


def test_a_network_that_enlarges(server: Running) -> None:
    answer = server.post("/translate?engine=twice", png(pixels_of(8)))
    assert np.array_equal(answer.pixels, pixels_of(8).repeat(2, 0).repeat(2, 1))


def test_faithfulness_is_measured_where_there_is_an_inverse(server: Running, run_folder: Path) -> None:
    pixels = pixels_of(9, 24, 16)
    answer = server.post("/faithfulness?engine=tiny", png(pixels))
    assert answer.status == 200
    assert [*answer.json["maps"]] == [*MAPS]
    values = (pixels.astype(np.float64) / 127.5 - 1).transpose(2, 0, 1)[None]
    import torch

    with (
        load_engine(run_folder, device="cpu") as forward,
        load_engine(run_folder, direction="BtoA", device="cpu") as back,
    ):
        images = torch.from_numpy(values).float()
        found = measure(images, forward.run(images), forward.run, back.run)
    for name, url in answer.json["maps"].items():
        kind, _, content = url.partition(",")
        assert kind == "data:image/png;base64"
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        expected = heat_map(getattr(found, MAPS[name])[0, 0])
        assert np.abs(shown.astype(int) - np.asarray(expected).astype(int)).max() <= 2
    for name in SCORES:
        assert answer.json["scores"][name] == pytest.approx(float(getattr(found, name)[0]), rel=1e-3), name
    answer = server.post("/faithfulness?engine=identity", png(pixels))
    assert answer.status == 409 and "has no inverse" in answer.error


def test_a_run_of_one_direction_has_no_inverse(tmp_path: Path) -> None:
    model = ModelConfig(model="pix2pix", generator="resnet_1blocks", ngf=4, ndf=4)
    config, folder = TrainConfig(model=model), tmp_path / "facades"
    save_checkpoint(folder / "checkpoints", 1, networks=build_networks(model), config=config, progress={"step": 1})
    engines = open_engines(read_source(str(folder)), device="cpu")
    with engines.forward as forward:
        assert (forward.direction, engines.inverse) == ("AtoB", None)


def test_the_engines_are_listed(server: Running) -> None:
    listed = server.get("/engines").json
    assert [engine["name"] for engine in listed["engines"]] == ["identity", "grey", "twice", "tiny"]
    assert [engine["faithfulness"] for engine in listed["engines"]] == [False, False, False, True]
    assert listed["max_pixels"] == 128 * 128


WRONG = {
    b"": "the image: the file is empty",
    b"no image at all": "the image: not an image in a known format",
    encoded(pixels_of(0), "PNG")[:60]: "the image: damaged",
    encoded(pixels_of(0, 200, 100), "PNG"): "the image has 200x100 pixels, and this server takes at most 16,384 pixels",
}


@pytest.mark.parametrize("content", WRONG, ids=lambda content: str(len(content)))
def test_what_is_no_image_is_answered_in_a_sentence(server: Running, content: bytes) -> None:
    answer = server.post("/translate", content)
    assert answer.status == 422 and answer.error.startswith(WRONG[content])


def test_wrong_requests(server: Running) -> None:
    answer = server.post("/translate?engine=identiti", png(pixels_of()))
    assert (answer.status, answer.error) == (404, "there is no engine 'identiti', did you mean 'identity'?")
    content, headers = form(b"x")
    answer = server.post("/translate", content.replace(b'; filename="a.png"', b""), headers)
    assert answer.status == 422 and "holds no file" in answer.error
    answer = server.post("/translate", b"garbage", {"Content-Type": "multipart/form-data; boundary=XX"})
    assert answer.status in (400, 422) and answer.error
    answer = server.post("/translate", b"garbage", {"Content-Type": "multipart/form-data"})
    assert answer.status == 400 and answer.error.startswith("the form cannot be read")
    answer = server.get("/translate")
    assert answer.status == 405 and answer.error
    assert server.get("/nowhere").status == 404 and server.get("/nowhere").error


def test_the_description_names_every_route(server: Running) -> None:
    paths = server.get("/openapi.json").json["paths"]
    assert {"/translate", "/faithfulness", "/engines", "/metrics", "/v2", "/v2/models/{name}/infer"} <= set(paths)
    assert "multipart/form-data" in paths["/translate"]["post"]["requestBody"]["content"]
