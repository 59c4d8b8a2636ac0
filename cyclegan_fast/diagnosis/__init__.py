"""What `python -m cyclegan_fast.doctor` examines: packages, the extension, the GPU, the machine, every backend."""
