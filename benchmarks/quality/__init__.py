"""Whether what is fast costs quality: `python -m benchmarks.quality`, see docs/quality.md."""
