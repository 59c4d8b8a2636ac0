// The slices of plane_statistics on the CPU. Included through cpu/for_each_isa.h.

#include "cpu/statistics.simd.h"

// statistics[:, at], where at = image * C + channel
template <typename T>
void write_statistics(const PlaneStatisticsParams& p, int64_t at, const Sums& sums) {
  const double size = double(p.h * p.w);
  const Moments moments = moments_of(sums, size);
  auto* statistics = static_cast<Compute<T>*>(p.statistics) + at;
  statistics[0] = Compute<T>(moments.mean);
  statistics[p.n * p.c] = 0;
  statistics[2 * p.n * p.c] = Compute<T>(moments.variance * size);
}

template <typename T>
void run_plane(const PlaneStatisticsParams& p, int64_t plane) {
  const int64_t size = p.h * p.w;
  write_statistics<T>(p, plane, plane_sums(static_cast<const T*>(p.x) + plane * size, size));
}

template <typename T, int kVecs>
void run_group(const PlaneStatisticsParams& p, int64_t n, int64_t channel, int64_t count) {
  const int64_t size = p.h * p.w;
  Sums sums[kVecs * kVectorLanes<T>];
  group_sums<T, kVecs>(static_cast<const T*>(p.x) + n * size * p.c + channel, size, p.c, count,
                       sums);
  for (int64_t i = 0; i < count; ++i) write_statistics<T>(p, n * p.c + channel + i, sums[i]);
}

#include "cpu/slices.simd.h"
