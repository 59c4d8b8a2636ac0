"""Trained generators at work: load or build an engine, and translate images of any kind and size with it."""

from cyclegan_fast.engine.backends.onnxruntime import OnnxBackend
from cyclegan_fast.engine.backends.torch import TorchBackend
from cyclegan_fast.engine.engine import Engine
from cyclegan_fast.engine.export.build import build_engine
from cyclegan_fast.engine.generator import Generator, load_generator
from cyclegan_fast.engine.inference import infer, infer_async
from cyclegan_fast.engine.info import EngineInfo, Precision
from cyclegan_fast.engine.load import Backend, load_engine
from cyclegan_fast.engine.shapes import ShapeLimits, Shapes
from cyclegan_fast.engine.tiling.tiling import Tiling

__all__ = [
    "Backend",
    "Engine",
    "EngineInfo",
    "Generator",
    "OnnxBackend",
    "Precision",
    "ShapeLimits",
    "Shapes",
    "Tiling",
    "TorchBackend",
    "build_engine",
    "infer",
    "infer_async",
    "load_engine",
    "load_generator",
]
