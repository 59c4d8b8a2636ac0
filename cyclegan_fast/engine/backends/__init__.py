"""What runs a generator: torch, ONNX Runtime, OpenVINO, AOTInductor, TensorRT."""
