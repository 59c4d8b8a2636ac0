"""Trained generators at work: load or export one, and translate images of any kind and size with it."""

from cyclegan_fast.engine.backends import DType, Engine, TorchBackend
from cyclegan_fast.engine.export import export_engine
from cyclegan_fast.engine.generator import Generator, load_generator
from cyclegan_fast.engine.inference import infer
from cyclegan_fast.engine.load import load_engine
from cyclegan_fast.engine.onnx import OnnxBackend

__all__ = [
    "DType",
    "Engine",
    "Generator",
    "OnnxBackend",
    "TorchBackend",
    "export_engine",
    "infer",
    "load_engine",
    "load_generator",
]
