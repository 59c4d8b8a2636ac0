// Empty: on the host the kernels convert in software (see csrc/kernels/cuda/vectors.cuh).
