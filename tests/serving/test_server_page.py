"""The page, in a real Chromium without a window."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi")

from cyclegan_fast.serving.limits import Limits
from cyclegan_fast.serving.models import open_engines, read_source
from tests.engine.identity import Identity
from tests.serving.browser import Page, browser, executable
from tests.serving.running import Gated, Running, pixels_of, running

pytestmark = pytest.mark.skipif(executable() is None, reason="no Chromium on this machine")

RESULT = "!document.querySelector('#result').hidden && document.querySelector('#busy').hidden"


@pytest.fixture(scope="module")
def page():
    with browser() as page:
        yield page


@pytest.fixture(scope="module")
def server(run_folder: Path):
    tiny = functools.partial(open_engines, read_source(str(run_folder)), device="cpu")
    with running({"identity": Identity(), "tiny": tiny}, Limits(max_pixels=300 * 300, max_body=2**20)) as server:
        yield server


def opened(page: Page, server: Running, **size: bool) -> Page:
    page.messages.clear()
    page.size(*((390, 844) if size.get("phone") else (1280, 900)), **size)
    page.open(f"{server.url}/")
    page.wait("document.querySelector('#engine').options.length")
    return page


def image_file(path: Path, seed: int = 0, width: int = 240, height: int = 160) -> Path:
    Image.fromarray(pixels_of(seed, width, height)).save(path)
    return path


def translated(page: Page, path: Path) -> None:
    page.choose("#file", path)
    page.wait(RESULT)


def value(page: Page) -> int:
    return int(page.run("document.querySelector('#handle').getAttribute('aria-valuenow')"))


def test_an_image_is_chosen_shown_compared_and_downloaded(page: Page, server: Running, tmp_path: Path) -> None:
    opened(page, server)
    assert page.run("document.querySelector('#drop').checkVisibility()")
    assert not page.run("document.querySelector('#result').checkVisibility()")
    translated(page, image_file(tmp_path / "horse.png"))
    assert not page.run("document.querySelector('#drop').checkVisibility()")
    assert page.run("document.querySelector('#status').textContent").startswith("240 \u00d7 160 pixels, translated in ")
    # The pixels that are offered for download are those of the engine.
    name, data = page.run(
        "(async () => { const a = document.querySelector('#download'), image = new Image(); image.src = a.href;"
        "await image.decode(); const canvas = new OffscreenCanvas(image.width, image.height);"
        "const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);"
        "return [a.download, [...context.getImageData(0, 0, image.width, image.height).data]]; })()"
    )
    assert name == "horse_translated.png"
    assert np.array_equal(np.array(data, np.uint8).reshape(160, 240, 4)[..., :3], pixels_of(0, 240, 160))
    assert page.errors() == []


def test_the_boundary_moves_by_keyboard_and_mouse_and_touch(page: Page, server: Running, tmp_path: Path) -> None:
    translated(opened(page, server), image_file(tmp_path / "a.png"))
    assert page.run("document.activeElement.id") == "handle" and value(page) == 50
    for key, expected in (("ArrowRight", 52), ("ArrowLeft", 50), ("PageDown", 40), ("Home", 0), ("End", 100)):
        page.key(key)
        assert value(page) == expected
    left, top, width, height = page.run(
        "(() => { const b = document.querySelector('#compare').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    for kind, part in (("mousePressed", 0.5), ("mouseMoved", 0.25), ("mouseReleased", 0.25)):
        page("Input.dispatchMouseEvent", type=kind, x=left + part * width, y=top + 20, button="left", clickCount=1)
    assert value(page) == 25
    page.size(1280, 900, phone=True)
    for kind, part in (("touchStart", 0.6), ("touchMove", 0.7), ("touchEnd", None)):
        points = [] if part is None else [{"x": left + part * width, "y": top + height / 2}]
        page("Input.dispatchTouchEvent", type=kind, touchPoints=points)
    assert value(page) == 70
    assert page.run("getComputedStyle(document.querySelector('#before')).clipPath") == "inset(0px 30% 0px 0px)"


def test_faithfulness_is_shown_where_the_engine_has_its_inverse_alone(
    page: Page, server: Running, tmp_path: Path
) -> None:
    path = image_file(tmp_path / "a.png")
    translated(opened(page, server), path)
    shown, maps = "document.querySelector('#{}').checkVisibility()", ("retranslation", "reconstruction")
    assert not any(page.run(shown.format(name)) for name in ("faithfulness", *(f"{one}-button" for one in maps)))
    page.run(
        "(() => { const select = document.querySelector('#engine'); select.value = 'tiny';"
        "select.dispatchEvent(new Event('change')); })()"
    )
    page.wait(shown.format("measured"))
    assert "tiny (A to B)" in page.run("document.querySelector('#about').textContent")
    for name in ("after_noise", "hidden", "gradient_correlation"):
        float(page.run(f"document.querySelector('#{name}').textContent"))
    for chosen in maps:
        page.run(f"document.querySelector('#{chosen}-button').click()")
        assert page.run(f"document.querySelector('#{chosen}').naturalWidth") == 240
        for name in maps:
            pressed = page.run(f"document.querySelector('#{name}-button').getAttribute('aria-pressed')")
            assert page.run(shown.format(name)) == (pressed == "true") == (name == chosen)
    page.run(f"document.querySelector('#{chosen}-button').click()")
    assert not any(page.run(shown.format(name)) for name in maps)
    assert page.errors() == []


def test_an_image_may_be_dropped_or_pasted(page: Page, server: Running) -> None:
    opened(page, server)
    made = (
        "const canvas = new OffscreenCanvas(40, 30); canvas.getContext('2d').fillRect(0, 0, 9, 9);"
        "const files = new DataTransfer();"
        "files.items.add(new File([await canvas.convertToBlob()], 'x.png', {type: 'image/png'}));"
    )
    for event in ("DragEvent('drop', {dataTransfer: files", "ClipboardEvent('paste', {clipboardData: files"):
        page.run("document.querySelector('#status').textContent = ''")
        page.run(f"(async () => {{ {made} document.dispatchEvent(new {event}}})); }})()")
        page.wait("document.querySelector('#status').textContent.startsWith('40 \u00d7 30')")


def test_an_error_is_a_sentence(page: Page, server: Running, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    wrong = {
        tmp_path / "a.png": "The image: not an image in a known format",
        image_file(tmp_path / "large.png", 0, 301, 300): "The image has 301x300 pixels, and this server takes at most",
        image_file(tmp_path / "heavy.png", 0, 700, 700): "The file has 1 MB, and this server takes 1 MB",
        tmp_path / "b.txt": "That is no image: choose a PNG, JPEG, TIFF or WebP file.",
    }
    (tmp_path / "b.txt").write_text("a text")
    opened(page, server)
    for path, sentence in wrong.items():
        page.run("document.querySelector('#error').hidden = true")
        page.choose("#file", path)
        page.wait("!document.querySelector('#error').hidden")
        assert page.run("document.querySelector('#error-text').textContent").startswith(sentence), path
    translated(page, image_file(tmp_path / "good.png"))
    assert page.run("document.querySelector('#error').hidden")


def test_a_tiff_is_shown_without_a_comparison(page: Page, server: Running, tmp_path: Path) -> None:
    translated(opened(page, server), image_file(tmp_path / "scan.tif"))
    assert page.run("document.querySelector('#after').naturalWidth") == 240
    assert not page.run("document.querySelector('#handle').checkVisibility()")
    assert page.run("document.querySelector('#download').download") == "scan_translated.tif"
    assert "cannot show the original" in page.run("document.querySelector('#status').textContent")


def test_a_busy_server_is_asked_again(page: Page, tmp_path: Path) -> None:
    engine = Gated()
    with running({"gated": engine}, Limits(max_queue=1)) as server:
        opened(page, server)
        engine.hold()
        with server.service.models["gated"].loaded.used(1):  # type: ignore[union-attr]
            page.choose("#file", image_file(tmp_path / "a.png"))
            page.wait("document.querySelector('#status').textContent.startsWith('The server is busy')")
        engine.release()
        page.wait("document.querySelector('#status').textContent.startsWith('240 \u00d7 160')")


@pytest.mark.parametrize("phone", [False, True])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_and_asks_nobody_else(
    page: Page, server: Running, tmp_path: Path, phone: bool, dark: bool
) -> None:
    translated(opened(page, server, phone=phone, dark=dark), image_file(tmp_path / "a.png"))
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    colour = page.run("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, colour[4:-1].split(","))) < 200) == dark
    visible = "document.querySelector('label[for=camera]').checkVisibility()"
    page.run("document.querySelector('#drop').hidden = false")
    assert page.run(visible) == phone
    small = page.run(
        "[...document.querySelectorAll('.button, select, .handle')].filter((e) => e.checkVisibility() &&"
        "e.getBoundingClientRect().height < 44).length"
    )
    assert small == 0, "a finger needs 44 px"
    assert all(url.startswith((server.url, "blob:", "data:")) for url in page.requests())
    assert page.errors() == []


def test_the_description_of_the_routes_is_a_page(page: Page, server: Running) -> None:
    page.messages.clear()
    page.open(f"{server.url}/docs")
    page.wait("document.querySelectorAll('.route').length > 10")
    assert page.errors() == [] and all(url.startswith(server.url) for url in page.requests())


def test_the_pages_of_the_server_allow_nothing_from_elsewhere(server: Running) -> None:
    for path in ("/", "/docs", "/page.js", "/slider.js", "/docs.js", "/page.css", "/favicon.ico"):
        answer = server.get(path)
        assert answer.status == 200 and b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"")
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
        assert answer.headers["x-content-type-options"] == "nosniff"
