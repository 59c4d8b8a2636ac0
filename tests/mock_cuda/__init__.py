"""A CUDA runtime without a GPU: a real CUDA build of torch, and this package's kernels, on a machine that has none.

The C++ files (`runtime.cpp` is the first to read) take the place of libcudart.so and of NCCL. Memory is address space
only, kernels compute nothing and leave their names, and streams, events and captures keep CUDA's rules, so that a test
sees what is launched, on which stream and device, what waits for what, and what would break a capture. Numbers mean
nothing: arrays are read back as zeros, and a single number as 1.

    make mockgpu PYTHON=PATH                          the tests; PATH is a Python with a CUDA build of torch
    PATH -m tests.mock_cuda -m cyclegan_fast.train    any Python program

Compiling needs nvcc, of the version of CUDA that torch was built with.
"""
