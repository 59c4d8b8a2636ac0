"""What mkdocs cannot do by itself: pages from outside docs/, links that lead out of it, and the table of settings."""

from __future__ import annotations

import ast
import dataclasses
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.structure.files import File, Files

from cyclegan_fast import config as settings

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {  # file of the repository -> page of the site
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "tests/README.md": "tests.md",
}
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"(`[^`]*`)")


def on_config(config: Any) -> Any:
    """Adds results that a benchmark has written, and nobody has named yet, to the navigation."""
    (results,) = (section["Results"] for section in config.nav if "Results" in section)
    named = {page for entry in results for page in entry.values()}
    pages = sorted(f"results/{path.name}" for path in (ROOT / "docs" / "results").glob("*.md"))
    results += [page for page in pages if page not in named]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that lie outside docs/ (one of docs/ of the same name comes first) and the settings."""
    for source, page in OUTSIDE.items():
        if files.get_file_from_path(page) is None:
            files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "settings.md", content="\n".join(settings_page())))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links as they are in the repository into links of the site."""
    page_uri = page.file.src_uri
    sources = {name: source for source, name in OUTSIDE.items()} if page.file.generated_by else {}
    own = sources.get(page_uri, f"docs/{page_uri}")

    def rewrite(match: re.Match[str]) -> str:
        text, target = match.groups()
        if ":" in target or target.startswith("#"):
            return match[0]
        path, _, anchor = target.partition("#")
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(own), path))
        uri = OUTSIDE.get(in_repository, in_repository.removeprefix("docs/"))
        if uri == in_repository:  # a source file, which the site does not show
            return f"`{text.strip('`')}`" if (ROOT / in_repository).exists() else match[0]
        relative = posixpath.relpath(uri, posixpath.dirname(page_uri) or ".")
        return f"[{text}]({relative}{'#' * bool(anchor)}{anchor})"

    return LINK.sub(rewrite, markdown)


def settings_page() -> Iterator[str]:
    """Yields a page with every setting of a training: its flag, default, range and meaning, from config.py itself."""
    yield "# Settings\n"
    yield "Every setting of a training is a flag of `train`, a line of its `--config` file, and a keyword of"
    yield "[fit](python.md).\n"
    texts = _texts(Path(settings.__file__))
    for group in dataclasses.fields(settings.TrainConfig):
        kind = getattr(settings, str(group.type))
        yield f"## {group.name}\n\n{kind.__doc__}\n\n| flag | default | values | |\n|---|---|---|---|"
        for setting in dataclasses.fields(kind):
            flag, text = f"`--{setting.name.replace('_', '-')}`", _escaped(texts[kind.__name__, setting.name])
            yield f"| {flag} | {_default(setting)} | {_values(setting)} | {text} |"
        yield ""


def _texts(path: Path) -> dict[tuple[str, str], str]:
    """Returns the text below each field of each class, by the names of both."""
    classes = (node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef))
    return {
        (cls.name, field.target.id): " ".join(text.value.value.split())
        for cls in classes
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }


def _default(setting: dataclasses.Field[Any]) -> str:
    value = setting.default
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else f"`{value}`"


def _values(setting: dataclasses.Field[Any]) -> str:
    kind = str(setting.type)
    if kind.startswith("Literal"):
        return ", ".join(f"`{value}`" for value in ast.literal_eval(kind.removeprefix("Literal")))
    if kind in ("Preprocess", "Loader"):
        return ", ".join(f"`{value}`" for value in getattr(settings, kind).__args__)
    low, high = setting.metadata.get("range", (None, None))
    if low is None:
        return ""
    if high < settings.FINITE:
        return f"{_number(low)} to {_number(high)}"
    return f"at least {_number(low)}" if low > -settings.FINITE else "any"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


class EscapeTags(griffe.Extension):
    """Shows <words> in angle brackets of docstrings, which Markdown takes for HTML."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escapes them outside of code."""
        if obj.docstring:
            parts = CODE.split(obj.docstring.value)
            parts[::2] = [part.replace("<", "&lt;") for part in parts[::2]]
            obj.docstring.value = "".join(parts)
