"""HTML and SVG as trees, so that every text and attribute is escaped by the serialiser and none by hand."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element


def el(tag: str, *children: Element | str | None, **attributes: object) -> Element:
    """Makes an element: ``el("a", "text", href="#x", class_="y", aria_label="z")``.

    Args:
        tag: Its name.
        children: Elements and texts in order; None is left out.
        attributes: An underscore becomes a hyphen, one at the end falls off; None is left out.
    """
    names = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items() if value is not None}
    element = Element(tag, names)
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            _append_text(element, last, child)
        elif child is not None:
            element.append(child)
            last = child
    return element


def to_html(root: Element) -> str:
    """The document, with its doctype."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def _append_text(element: Element, last: Element | None, text: str) -> None:
    if last is None:
        element.text = (element.text or "") + text
    else:
        last.tail = (last.tail or "") + text
