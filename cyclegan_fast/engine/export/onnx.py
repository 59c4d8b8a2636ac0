"""A generator as an ONNX graph."""

from __future__ import annotations

import torch

from cyclegan_fast import ops
from cyclegan_fast.engine.backends.external_runtime import forget_trace
from cyclegan_fast.engine.centred import centred
from cyclegan_fast.engine.generator import Generator
from cyclegan_fast.errors import UserError
from cyclegan_fast.logs import suppressed_output

OPSET = 18


def to_onnx(generator: Generator) -> bytes:
    """The ONNX file's content: input "image", output "translated", [N, C, size_divisor * h, size_divisor * w]."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError("exporting to ONNX needs more packages: pip install 'cyclegan-fast[onnx]'") from error
    unit = generator.size_divisor
    smallest = -(-generator.min_size // unit)
    sides = {2: unit * torch.export.Dim("h", min=smallest), 3: unit * torch.export.Dim("w", min=smallest)}
    example = torch.zeros(2, generator.in_channels, 4 * unit, 6 * unit)  # sizes of 1 would be taken for constants
    with ops.use_reference(), torch.no_grad(), suppressed_output("torch.onnx"):
        program = torch.onnx.export(
            centred(generator.network, generator.network),
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["translated"],
            dynamic_shapes=({0: torch.export.Dim("n", min=1)} | sides,),
        )
    assert program is not None  # dynamo=True without a file
    content = program.model_proto.SerializeToString()
    forget_trace(program.exported_program)
    return content
