"""JSON and YAML from outside, the one reader of both: limits on what is parsed, and checks of what was found.

Files of settings, manifests, sidecars and logs come with data sets and weights of strangers. Whatever is in one, it is
read in little time and memory, or refused with a reason to end a sentence: "it is nested more than 100 deep".
"""

from __future__ import annotations

import functools
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

MAX_BYTES = 16 * 2**20  # of one document, unless its reader expects more
MAX_DEPTH = 100  # of JSON; a training state has 20
MAX_YAML_BYTES = 256 * 2**10
MAX_YAML_DEPTH = 20
MAX_YAML_VALUES = 20_000  # once aliases are expanded
MAX_DIGITS = 100  # of a number
_CHUNK = 2**20  # bytes that are read at a time
_PLAIN_KEY = re.compile(r"[\w.-]{1,80}", re.ASCII)


class DocumentError(ValueError):
    """Why a document is refused, to end a sentence."""


class Number(NamedTuple):
    """A finite number in a range; see `check`."""

    min: float = -math.inf
    max: float = math.inf
    whole: bool = True


class Maybe(NamedTuple):
    """A key that may be missing, or None; see `check`."""

    shape: Any


def read_limited(path: Path, limit: int = MAX_BYTES, *, pipes: bool = False) -> bytes:
    """Reads a file; a pipe, which may keep its reader waiting, only if it is asked for.

    Raises:
        DocumentError: It is no file, or larger than `limit`.
        OSError: It cannot be read.
    """
    check_path(os.fspath(path))
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or (pipes and stat.S_ISFIFO(mode))):
        raise DocumentError("it is no file")
    content = bytearray()
    with path.open("rb") as file:
        while len(content) <= limit and (chunk := file.read(_CHUNK)):  # a read allocates all that it may return
            content += chunk
    if len(content) > limit:
        raise DocumentError(f"it is larger than {limit // 2**10:,} KiB")
    return bytes(content)


def parse_json(content: str | bytes, limit: int = MAX_BYTES) -> Any:
    """Parses JSON; NaN and Infinity, which are none, become None.

    Raises:
        DocumentError: It is none, too large, nested too deep, or holds a number that is too long.
    """
    if len(content) > limit:
        raise DocumentError(f"it is larger than {limit // 2**10:,} KiB")
    try:
        value = json.loads(content, parse_int=_whole_number, parse_float=_fraction, parse_constant=lambda _: None)
    except RecursionError:
        raise DocumentError(_too_deep(MAX_DEPTH)) from None
    except DocumentError:
        raise
    except ValueError as error:
        raise DocumentError(f"it is no valid JSON: {error}") from error
    _refuse_depth(value)
    return value


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """Reads and parses a JSON file; raises what `read_limited` and `parse_json` do."""
    return parse_json(read_limited(path, limit), limit)


def parse_yaml(content: bytes) -> Any:
    """Parses YAML of plain values. A date stays text, as it may be a path; a key may be given once.

    Raises:
        DocumentError: It is none, too large (also once its aliases are expanded), nested too deep, or holds a number
            that is too long.
    """
    import yaml

    if len(content) > MAX_YAML_BYTES:
        raise DocumentError(f"it is larger than {MAX_YAML_BYTES // 2**10} KiB")
    loader_class = _yaml_loader()
    try:
        text = content.decode("utf-8-sig")
        _refuse_yaml_depth(yaml.parse(text, loader_class))
        loader = loader_class(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except DocumentError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DocumentError(f"it is no valid YAML: {' '.join(str(error).split())}") from error
    except Exception as error:  # what PyYAML's constructors raise at a tag that does not fit its value: anything
        raise DocumentError(f"it is no valid YAML: a value does not fit its tag ({type(error).__name__})") from error


def check(value: Any, shape: Any, name: str = "it") -> None:
    """Checks the types of what was parsed.

    Args:
        value: What was found.
        shape: A type, `object` for any; a `Number`; a list of one shape, for lists of such; a dictionary of shapes by
            key, of which those that are `Maybe` may be missing, and beside which others may be there; or
            ``{str: shape}`` for any keys.
        name: Of the value, for the message.

    Raises:
        DocumentError: It has another shape; the message has the path to the place.
    """
    if isinstance(shape, Maybe):
        if value is not None:
            check(value, shape.shape, name)
    elif isinstance(shape, Number):
        _check_number(value, shape, name)
    elif isinstance(shape, list):
        if not isinstance(value, list | tuple):  # a tuple before it was written
            raise _other_type(name, "a list", value)
        for i, item in enumerate(value):
            check(item, shape[0], f"{name}[{i}]")
    elif isinstance(shape, dict):
        _check_keys(value, shape, name)
    elif shape is not object and type(value) is not shape:
        raise _other_type(name, {str: "text", dict: "an object", list: "a list"}.get(shape, shape.__name__), value)


def check_path(text: str) -> None:
    """Refuses text that is no path for the system.

    Raises:
        DocumentError: It is that.
    """
    try:
        if b"\0" not in os.fsencode(text):
            return
    except UnicodeEncodeError:
        pass
    raise DocumentError(f"{shown(text)} is no path: it holds a character that no path can")


def shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # of an integer with thousands of digits
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_number(value: Any, shape: Number, name: str) -> None:
    is_number = isinstance(value, int if shape.whole else int | float) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise _other_type(name, "a whole number" if shape.whole else "a number", value)
    if not shape.min <= value <= shape.max:
        raise DocumentError(f"{name} is {shown(value)}, which is not from {shape.min:,} to {shape.max:,}")


def _check_keys(value: Any, shape: Mapping[Any, Any], name: str) -> None:
    if not isinstance(value, dict):
        raise _other_type(name, "an object", value)
    if str in shape:
        for key, item in value.items():
            check(key, str, f"a key of {name}")
            check(item, shape[str], f"{name}{_place(key)}")
        return
    for key, expected in shape.items():
        if key in value or isinstance(expected, Maybe):
            check(value.get(key), expected, f"{name}.{key}")
        else:
            raise DocumentError(f"{name}.{key} is missing")


def _place(key: str) -> str:
    """How a message names what is at a key: .key, or ['odd\\nkey'] where that would not stay one readable line."""
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{shown(key)}]"


def _other_type(name: str, expected: str, value: Any) -> DocumentError:
    return DocumentError(f"{name} is not {expected} but {shown(value)}")


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise DocumentError(_too_long(text))
    return int(text)


def _fraction(text: str) -> float:
    if len(text) > MAX_DIGITS:
        raise DocumentError(_too_long(text))
    return float(text)


def _too_long(text: str) -> str:
    return f"it holds a number of {len(text):,} characters"


def _too_deep(limit: int) -> str:
    return f"it is nested more than {limit} deep"


def _refuse_depth(value: Any) -> None:
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(MAX_DEPTH):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, list | dict)
        ]
        if not level:
            return
    raise DocumentError(_too_deep(MAX_DEPTH))


@functools.cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader, in C where it has that, without its dates and without a second value of a key."""
    import yaml

    base = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in base.yaml_implicit_resolvers.items()
    }
    return type("Loader", (base,), {"yaml_implicit_resolvers": resolvers})


def _refuse_yaml_depth(events: Iterable[Any]) -> None:
    import yaml

    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_YAML_DEPTH:
            raise DocumentError(_too_deep(MAX_YAML_DEPTH))


def _measure(node: Any, measured: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node of YAML holds with its aliases expanded, and how deep; each node is measured once.

    Args:
        node: A node of the graph that aliases make of the document.
        measured: What is known, by the nodes' ids; None of one that holds the node.
    """
    import yaml

    if id(node) in measured:
        known = measured[id(node)]
        if known is None:
            raise DocumentError("an alias in it holds itself")
        return known
    measured[id(node)] = None
    children = []
    if isinstance(node, yaml.MappingNode):
        _refuse_second_values(node)
        children = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        children = node.value
    elif node.tag.endswith((":int", ":float")) and len(node.value) > MAX_DIGITS:
        raise DocumentError(_too_long(node.value))
    sizes = [_measure(child, measured) for child in children]  # as deep as the text is nested, which was checked
    total, depth = 1 + sum(size for size, _ in sizes), 1 + max((depth for _, depth in sizes), default=0)
    if total > MAX_YAML_VALUES:
        raise DocumentError(f"it holds more than {MAX_YAML_VALUES:,} values, aliases expanded")
    if depth > MAX_YAML_DEPTH + 1:  # a plain value within the deepest collection counts, too
        raise DocumentError(_too_deep(MAX_YAML_DEPTH))
    measured[id(node)] = total, depth
    return total, depth


def _refuse_second_values(node: Any) -> None:
    keys = Counter(key.value for key, _ in node.value if isinstance(key.value, str) and not key.tag.endswith(":merge"))
    if twice := next((key for key, count in keys.items() if count > 1), None):
        raise DocumentError(f"{shown(twice)} is given twice")
