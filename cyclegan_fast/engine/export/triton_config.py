"""config.pbtxt of a model of Triton Inference Server: protobuf's text format, written without protobuf."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cyclegan_fast.engine.info import EngineInfo
from cyclegan_fast.engine.shapes import Shape

INPUT, OUTPUT = "image", "translated"  # as the graphs name them
Fields = Mapping[str, Any]


class Word(str):
    """A name of the schema, which stands without quotes: TYPE_FP32, true."""


FP32, STRING, TRUE = Word("TYPE_FP32"), Word("TYPE_STRING"), Word("true")


def text_of(fields: Fields, indent: str = "") -> str:
    """A message of protobuf as text: a mapping is a message, a list a field that is repeated."""
    return "".join(
        f"{indent}{name} {_value(value, indent)}\n"
        for name, values in fields.items()
        for value in (values if _is_repeated(values) else [values])
    )


def _is_repeated(values: Any) -> bool:
    return isinstance(values, list) and not all(isinstance(value, int) for value in values)


def _value(value: Any, indent: str) -> str:
    if isinstance(value, Mapping):
        return f"{{\n{text_of(value, indent + '  ')}{indent}}}"
    if isinstance(value, Word):
        return f": {value}"
    return f": {json.dumps(value)}"  # numbers, lists of them, and texts


def tensor(name: str, kind: Word, dims: Sequence[int]) -> Fields:
    """An input or output; the batch is not among its sizes."""
    return {"name": name, "data_type": kind, "dims": list(dims)}


def network_config(
    name: str,
    backend: Fields,
    info: EngineInfo,
    *,
    max_batch: int,
    max_delay_us: int,
    warmup: Sequence[Shape],
    instances: Fields,
) -> str:
    """The configuration of a generator.

    Args:
        name: Of the model.
        backend: What runs it.
        info: About its file.
        max_batch: Images of the largest batch.
        max_delay_us: Microseconds that an image waits for others.
        warmup: Batches that are run before the model is ready.
        instances: Of the group of instances.
    """
    sides = [-1, -1]
    if (shapes := info.limits.shapes) is not None:
        ends = zip(shapes.min[1:], shapes.max[1:], strict=True)
        sides = [low if low == high else -1 for low, high in ends]
    preferred = sorted({size for size in (max_batch // 2, max_batch) if size > 1})
    fields: dict[str, Any] = {
        "name": name,
        **backend,
        "max_batch_size": max_batch,
        "input": [tensor(INPUT, FP32, [info.in_format.channels, *sides])],
        "output": [tensor(OUTPUT, FP32, [info.out_format.channels, *sides])],
        "version_policy": {"latest": {"num_versions": 1}},
        "dynamic_batching": {
            **({"preferred_batch_size": preferred} if preferred else {}),
            "max_queue_delay_microseconds": max_delay_us,
        },
        "instance_group": [instances],
        "model_warmup": [
            {
                "name": f"{images} x {height} x {width}",
                "batch_size": images,
                "inputs": {
                    "key": INPUT,
                    "value": {"data_type": FP32, "dims": [info.in_format.channels, height, width], "zero_data": TRUE},
                },
            }
            for images, height, width in warmup
        ],
    }
    return text_of(fields)


def files_config(name: str, inputs: list[Fields], outputs: list[Fields], facts: str) -> str:
    """The configuration of a model of Python that decodes or encodes files, one at a time."""
    return text_of(
        {
            "name": name,
            "backend": "python",
            "max_batch_size": 1,
            "input": inputs,
            "output": outputs,
            "version_policy": {"latest": {"num_versions": 1}},
            "instance_group": [{"count": 2, "kind": Word("KIND_CPU")}],
            "parameters": [{"key": "cyclegan_fast", "value": {"string_value": facts}}],
        }
    )


def ensemble_config(name: str, network: str, decode: str, encode: str) -> str:
    """The configuration of an ensemble: a file in, a file out."""

    def step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Fields:
        maps = {"input_map": inputs, "output_map": outputs}
        entries = {key: [{"key": a, "value": b} for a, b in pairs.items()] for key, pairs in maps.items()}
        return {"model_name": model, "model_version": -1, **entries}

    return text_of(
        {
            "name": name,
            "platform": "ensemble",
            "max_batch_size": 1,
            "input": [tensor("file", STRING, [1])],
            "output": [tensor("translated_file", STRING, [1])],
            "version_policy": {"latest": {"num_versions": 1}},
            "ensemble_scheduling": {
                "step": [
                    step(decode, {"file": "file"}, {INPUT: "image", "facts": "facts"}),
                    step(network, {INPUT: "image"}, {OUTPUT: "translated"}),
                    step(
                        encode,
                        {"file": "file", "facts": "facts", OUTPUT: "translated"},
                        {"translated_file": "translated_file"},
                    ),
                ]
            },
        }
    )
