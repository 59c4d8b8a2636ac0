"""The layers that TensorRT for RTX compiled: what each computes, in which type, for which profile."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cyclegan_fast.engine.shapes import Shapes
from cyclegan_fast.errors import UserError

_TYPES = {"Float": "fp32", "Half": "fp16", "BFloat16": "bf16", "Int8": "int8", "FP8": "fp8"}
_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: \[(?P<weights>.*?)\], "
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: .*?, Metadata: ?(?P<nodes>.*)"
)
_PART = re.compile(r"_myl(\d+)_\d+$")  # the end of a layer's name: which part of the plan it is in
_CONVOLUTIONS = {"Conv", "ConvTranspose"}
_COLUMNS = ("profile", "layer", "kind", "operators", "inputs", "weights", "outputs")


class Layer(NamedTuple):
    """One compiled layer of one profile. Types are those of its tensors: fp32, fp16, bf16, int8, fp8 or another."""

    profile: int
    """Counted from 0."""
    name: str
    kind: str
    """As the compiler calls it; kgen is a kernel that it generates."""
    nodes: tuple[str, ...]
    """Of the ONNX graph."""
    operators: tuple[str, ...]
    """Their operators, each once."""
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    """And other constants."""
    outputs: tuple[str, ...]


def layers_of(path: Path) -> Path:
    """h2z.engine -> h2z.engine.layers.md."""
    return path.with_name(f"{path.name}.layers.md")


def read_layers(report: str, content: bytes) -> list[Layer]:
    """Reads what the builder reported.

    Args:
        report: Of `build_rtx_plan`, with `inspect`.
        content: The ONNX file's bytes that the plan was built from.

    Raises:
        UserError: There are no layers in it.
    """
    import onnx

    operators = {node.name: node.op_type for node in onnx.load_from_string(content).graph.node}
    found = [match for line in report.splitlines() if (match := _LAYER.match(line))]
    if not found:
        raise UserError("this version of TensorRT for RTX reports no layers: leave out --inspect")
    profiles = _profiles(found)
    layers = []
    for match in found:
        nodes = tuple(re.findall(r"\[ONNX Layer: (.*?)\]", match["nodes"]))
        known = dict.fromkeys(operators[node] for node in nodes if node in operators)
        types = (_types(match[key]) for key in ("inputs", "weights", "outputs"))
        layers.append(Layer(profiles[_part(match)], match["name"], match["kind"], nodes, tuple(known), *types))
    return layers


def layer_table(layers: Sequence[Layer], profiles: Sequence[Shapes]) -> str:
    """The layers as Markdown: how many convolutions compute in which type, and a row for each layer.

    Args:
        layers: As `read_layers` returns them.
        profiles: The batches that each profile serves.
    """
    lines = ["# Layers", "", "| profile | batches | convolutions, by the type of their weights |", "|---|---|---|"]
    for i, (smallest, _, largest) in enumerate(profiles):
        counts = Counter(layer.weights[0] for layer in layers if layer.profile == i and is_convolution(layer))
        text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        lines.append(f"| {i} | {'x'.join(map(str, smallest))} to {'x'.join(map(str, largest))} | {text} |")
    lines += ["", f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for layer in layers:
        name = layer.name.replace("|", r"\|")
        types = (", ".join(dict.fromkeys(each)) for each in (layer.inputs, layer.weights, layer.outputs))
        lines.append(
            f"| {layer.profile} | {name} | {layer.kind} | {', '.join(layer.operators)} | {' | '.join(types)} |"
        )
    return "\n".join([*lines, ""])


def is_convolution(layer: Layer) -> bool:
    """Whether it computes a convolution; others may prepare the input of one."""
    return layer.kind != "kgen" and bool(layer.weights) and not _CONVOLUTIONS.isdisjoint(layer.operators)


def _types(tensors: str) -> tuple[str, ...]:
    return tuple(_TYPES.get(name, name) for name in re.findall(r"Datatype: (\w+)", tensors))


def _part(match: re.Match[str]) -> int:
    part = _PART.search(match["name"])
    return int(part[1]) if part else 0


def _profiles(found: Sequence[re.Match[str]]) -> dict[int, int]:
    """The profile of each part of the plan: names in it end in [profile 2], but for those of profile 0."""
    profiles: dict[int, int] = {}
    for match in found:
        named = re.search(r"\[profile (\d+)\]", match[0])
        profiles[_part(match)] = int(named[1]) if named else profiles.get(_part(match), 0)
    return profiles
