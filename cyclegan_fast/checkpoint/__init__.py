"""Weights and training state on disk: our own folders (`native`) and the reference's .pth files (`reference_format`)."""
