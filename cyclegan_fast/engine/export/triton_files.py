"""What the Python models of a Triton repository do: image files to a generator's input, and its output to files.

They run inside Triton Inference Server, whose Python needs this package; ``1/model.py`` imports one of the classes. The
pixels are those that `infer` and `translate` give a generator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from cyclegan_fast.engine.info import EngineInfo
from cyclegan_fast.engine.metadata import engine_info, read_engine_metadata
from cyclegan_fast.engine.output_size import output_scale, scaled
from cyclegan_fast.engine.tiling.rows import mirror_to
from cyclegan_fast.engine.translation.files import encode_translation
from cyclegan_fast.errors import UserError
from cyclegan_fast.images.decode import faults_of, opened
from cyclegan_fast.images.in_memory import EncodedImage
from cyclegan_fast.images.metadata import MetadataRules
from cyclegan_fast.images.model_io import InputImage, read_input

_RULES = MetadataRules("technical")


def decode(content: bytes, info: EngineInfo) -> tuple[np.ndarray, bytes]:
    """An image file as the generator takes it.

    Returns:
        float32 [C, H, W] with sides that suit the network, and what `encode` must know, as JSON.

    Raises:
        UserError: The image cannot be used.
    """
    image = read_input(EncodedImage("the image", content=content), info.in_format, info.out_format)
    height, width = image.values.shape[1:]
    size = info.limits.fitting_size(height, width)
    info.limits.check((info.limits.min_batch, *size), info.name)
    facts = {"height": height, "width": width, "depth": image.depth}
    return mirror_to(image.values, size).numpy(), json.dumps(facts).encode()


def encode(content: bytes, facts: bytes, output: np.ndarray, info: EngineInfo) -> bytes:
    """The generator's output as a file of the same kind as the image.

    Args:
        content: The image file.
        facts: As `decode` returns them.
        output: float32 [C', H', W'].
        info: About the generator.

    Raises:
        UserError: That kind of file cannot hold it, or it holds no numbers.
    """
    about, source = json.loads(facts), EncodedImage("the image", content=content)
    height, width = about["height"], about["width"]
    result = torch.from_numpy(np.array(output))
    if not result.isfinite().all():
        raise UserError("the generator returned pixels that are not finite: use fp32, or check its weights")
    padded = torch.empty(1, 1, *info.limits.fitting_size(height, width), device="meta")
    scale = output_scale(padded, result[None])
    result = result[:, : scaled(height, scale), : scaled(width, scale)]
    with faults_of(source), opened(source.open(), warn=False) as (_, opened_image):
        kind = "TIFF" if opened_image is None else str(opened_image.format)
    image = InputImage(torch.empty(info.in_format.channels, height, width, device="meta"), about["depth"], 0)
    return encode_translation(source, "JPEG" if kind == "MPO" else kind, image, result, info, _RULES)[0]


class _Model:
    """A model of Triton's Python backend."""

    info: EngineInfo

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the generator's facts from the model's configuration."""
        facts = json.loads(args["model_config"])["parameters"]["cyclegan_fast"]["string_value"]
        self.info = engine_info(read_engine_metadata(facts, "config.pbtxt"), name=args["model_name"], device="cpu")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers each request; what is wrong with one is its own error."""
        return [_answer(self._outputs, request) for request in requests]

    def _outputs(self, request: Any) -> dict[str, np.ndarray]:
        raise NotImplementedError


class Decode(_Model):
    """``file`` to ``image`` and ``facts``."""

    def _outputs(self, request: Any) -> dict[str, np.ndarray]:
        values, facts = decode(_bytes(request, "file"), self.info)
        return {"image": values[None], "facts": _text(facts)}


class Encode(_Model):
    """``file``, ``facts`` and ``translated`` to ``translated_file``."""

    def _outputs(self, request: Any) -> dict[str, np.ndarray]:
        (output,) = _array(request, "translated")
        return {"translated_file": _text(encode(_bytes(request, "file"), _bytes(request, "facts"), output, self.info))}


def _answer(outputs: Callable[[Any], dict[str, np.ndarray]], request: Any) -> Any:
    import triton_python_backend_utils as pb_utils  # which Triton alone has

    try:
        tensors = [pb_utils.Tensor(name, array) for name, array in outputs(request).items()]
    except UserError as error:
        return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _array(request: Any, name: str) -> np.ndarray:
    import triton_python_backend_utils as pb_utils

    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()


def _bytes(request: Any, name: str) -> bytes:
    return bytes(_array(request, name).reshape(-1)[0])


def _text(content: bytes) -> np.ndarray:
    return np.array([[content]], dtype=np.object_)
