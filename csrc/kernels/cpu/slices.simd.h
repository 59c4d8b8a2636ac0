// Runs slices (see cpu/slices.h) of a kernel that has run_plane<T>(params, plane) for NCHW and
// run_group<T, kVecs>(params, image, channel, count) for NHWC. Included after these.

// One NHWC slice: as many whole groups of vectors as fit, then single vectors, the last of them
// perhaps partial.
template <typename T, typename Params>
void run_groups(const Params& p, int64_t slice) {
  constexpr int64_t kGroup = kGroupBytes / int64_t(sizeof(T));
  constexpr int kVecs = kGroup / kVectorLanes<T> < 4 ? int(kGroup / kVectorLanes<T>) : 4;
  const int64_t groups = ceil_div(p.c, kGroup), n = slice / groups;
  int64_t channel = slice % groups * kGroup;
  const int64_t end = std::min(channel + kGroup, p.c);
  for (; channel + kVecs * kVectorLanes<T> <= end; channel += kVecs * kVectorLanes<T>) {
    run_group<T, kVecs>(p, n, channel, kVecs * kVectorLanes<T>);
  }
  for (; channel < end; channel += kVectorLanes<T>) {
    run_group<T, 1>(p, n, channel, std::min<int64_t>(kVectorLanes<T>, end - channel));
  }
}

template <typename T, typename Params>
void run_typed(const Params& p, int64_t begin, int64_t end) {
  for (int64_t slice = begin; slice < end; ++slice) {
    p.layout == Layout::kNCHW ? run_plane<T>(p, slice) : run_groups<T>(p, slice);
  }
}

template <typename Params>
void run_slices(const Params& p, int64_t begin, int64_t end) {
  switch (p.dtype) {
    case DType::kFloat32:
      return run_typed<float>(p, begin, end);
    case DType::kBFloat16:
      return run_typed<BFloat16>(p, begin, end);
    case DType::kFloat16:
      return run_typed<Half>(p, begin, end);
    case DType::kFloat64:
      return run_typed<double>(p, begin, end);
  }
}
