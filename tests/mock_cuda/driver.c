// The part of libcuda.so.1 that torch looks for; the state is that of runtime.cpp.
int mock_context_state(int device, unsigned* flags, int* active);

int cuInit(unsigned flags) { return (int)flags; }
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}
int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
  return mock_context_state(device, flags, active);
}
