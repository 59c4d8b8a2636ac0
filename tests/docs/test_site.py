"""The documentation site: it builds without a warning, every link leads somewhere, and it needs no network."""

from __future__ import annotations

import os
import posixpath
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_IMAGE_BYTES = 100_000


@dataclass
class Page(HTMLParser):
    """The ids of an HTML page, and what it links to and loads."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    images_without_text: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.images_without_text.append(values["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install 'cyclegan-fast[docs]'")
    pytest.importorskip("material", reason="the site needs mkdocs-material: pip install 'cyclegan-fast[docs]'")
    pytest.importorskip("mkdocstrings", reason="the site needs mkdocstrings: pip install 'cyclegan-fast[docs]'")
    site = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return site


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """The pages by their path within the site; 404.html, which only a server shows, is left out."""
    pages = {}
    for path in site.rglob("*.html"):
        if path.name != "404.html":
            page = pages[path.relative_to(site).as_posix()] = Page()
            page.feed(path.read_text("utf-8"))
    assert len(pages) > 10
    return pages


def test_every_link_leads_to_a_page_and_a_place_on_it(pages: dict[str, Page], site: Path) -> None:
    broken = []
    for name, page in pages.items():
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https", "mailto"):
                continue
            target = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path) or name))
            if not parts.path:
                target = name
            if not (site / target).is_file():
                broken.append(f"{name}: {link}: there is no {target}")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{name}: {link}: no such place on {target}")
    assert not broken, "\n".join(broken)


def test_it_loads_nothing_from_the_network(pages: dict[str, Page], site: Path) -> None:
    for name, page in pages.items():
        assert not [url for url in page.loaded if urlsplit(url).scheme or url.startswith("//")], name
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text("utf-8") and "@import" not in sheet.read_text("utf-8"), sheet.name


def test_it_can_be_searched_from_a_folder(site: Path) -> None:
    assert "var __index" in (site / "search" / "search_index.js").read_text("utf-8")[:100]
    assert "iframe-worker.js" in (site / "index.html").read_text("utf-8")


def test_images_are_small_and_described(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        assert not page.images_without_text, f"{name}: images without a text: {page.images_without_text}"
    for image in (ROOT / "docs").rglob("*"):
        if image.suffix in (".png", ".jpg", ".svg", ".gif"):
            assert image.stat().st_size < MAX_IMAGE_BYTES, image.name


def test_every_page_is_in_the_navigation(site: Path, pages: dict[str, Page]) -> None:
    linked = {urlsplit(link).path for link in pages["index.html"].links}
    assert set(pages) <= linked | {"index.html"}, "add the page to nav of mkdocs.yml"
