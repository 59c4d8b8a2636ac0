// The phases of conv3x3. Everything between them lies in panels of kPanel channels:
//   patches   V [36][C / kPanel][tiles][kPanel]   B^T x B
//   weights   U [36][K / kPanel][C padded][kPanel]   G w G^T
//   products  M [36][K / kPanel][tiles][kPanel]   the forward pass: V times U; the other: A dy A^T
//   sums      S [36][C / kPanel][K padded][kPanel]   of the weight gradient: M^T V
// Channels beyond C and K are zero. One chunk of tiles is worked on at a time.

#include "cpu_conv/panels.simd.h"
#include "cpu_conv/winograd.simd.h"

// How many tiles (or channels of a weight) ahead of the one worked on memory is fetched.
constexpr int64_t kTilesAhead = 4;

// The sizes of a pass, and where its parts lie in the workspace; counted in floats.
struct Conv3x3Geometry {
  int64_t rows, columns;                 // of tiles in an image of y
  int64_t tiles;                         // in all images
  int64_t c_panels, k_panels;            //
  int64_t v_stride, m_stride, u_stride;  // from one of the 36 positions to the next
  int64_t v, m, u, total;
  bool fetches_ahead;  // what is needed next is not in the second cache yet

  explicit Conv3x3Geometry(const Conv3x3Params& p)
      : rows(ceil_div(p.h + 2 * p.pad - 2, 4)),
        columns(ceil_div(p.w + 2 * p.pad - 2, 4)),
        tiles(p.n * rows * columns),
        c_panels(ceil_div(p.c, kPanel)),
        k_panels(ceil_div(p.k, kPanel)) {
    // One panel row more than needed: else all positions would fall on the same lines of a cache.
    const int64_t chunk = std::min(tiles, kTilesPerChunk);
    v_stride = (c_panels * chunk + 1) * kPanel;
    m_stride = (k_panels * chunk + 1) * kPanel;
    u_stride = (c_panels * k_panels * kPanel + 1) * kPanel;
    v = 0, m = v + 36 * v_stride, u = m + 36 * m_stride, total = u + 36 * u_stride;
    fetches_ahead = total * int64_t(sizeof(float)) > (int64_t{1} << 21);
  }

  // Tiles of the chunk that starts at `first`.
  int64_t chunk_at(int64_t first) const { return std::min(kTilesPerChunk, tiles - first); }
};

// A tile's position: its image, and the first of its pixels in y.
struct Tile {
  int64_t image, y, x;
  Tile(const Conv3x3Geometry& at, int64_t index)
      : image(index / (at.rows * at.columns)),
        y(index / at.columns % at.rows * 4),
        x(index % at.columns * 4) {}
};

// Transforms kSide x kSide pixels of an image [H, W, C] from (y, x) to 36 positions, `stride`
// floats apart. Pixels outside the image, and the lanes from `count` on, are zero.
template <auto kTransform, int kSide, typename T>
inline void transform_patch(const T* image, int64_t h, int64_t w, int64_t c, int64_t y, int64_t x,
                            int64_t count, float* positions, int64_t stride) {
  const T* first = image + (y * w + x) * c;
  const auto out = [&](int i, int j, VecF value) {
    store(positions + (i * 6 + j) * stride, value);
  };
  if (y >= 0 && x >= 0 && y + kSide <= h && x + kSide <= w && count >= kVectorLanes<T>) {
    along_both_axes<kTransform, kSide, 6>(
        [&](int i, int j) { return load(first + (i * w + j) * c); }, out);
    return;
  }
  VecF patch[kSide][kSide] = {};
  const int top = int(std::max<int64_t>(0, -y)), bottom = int(std::min<int64_t>(kSide, h - y));
  const int left = int(std::max<int64_t>(0, -x)), right = int(std::min<int64_t>(kSide, w - x));
  for (int i = top; i < bottom && count > 0; ++i) {
    for (int j = left; j < right; ++j) patch[i][j] = load(first + (i * w + j) * c, count);
  }
  along_both_axes<kTransform, kSide, 6>([&](int i, int j) { return patch[i][j]; }, out);
}

// Fetches the 36 positions of a vector that is written soon: a processor follows 36 streams of
// reads by itself, but waits for what it writes.
inline void fetch_positions(const float* first, int64_t stride) {
  for (int i = 0; i < 36; ++i) __builtin_prefetch(first + i * stride, 0, 2);
}

// Calls f(panel, i) for i from begin to end, panel by panel: so each of the 36 positions is read or
// written as one stream, which a processor follows.
template <typename F>
inline void for_each_panel_of(int64_t channels, int64_t begin, int64_t end, const F& f) {
  for (int64_t panel = 0; panel < ceil_div(channels, kPanel); ++panel) {
    for (int64_t i = begin; i < end; ++i) f(panel, i);
  }
}

// Calls f(lane, count): for each vector of a panel its first lane, and how many of its lanes are
// channels (none or fewer where the panel is padded).
template <typename F>
inline void for_each_vector(int64_t channels, int64_t panel, const F& f) {
  for (int lane = 0; lane < kPanel; lane += kVectorLanes<float>) {
    f(lane, channels - panel * kPanel - lane);
  }
}

// x -> V, for tiles first + [begin, end).
template <typename T>
void transform_input(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first);
  for_each_panel_of(p.c, begin, end, [&](int64_t panel, int64_t t) {
    const Tile tile(at, first + t);
    const T* image = static_cast<const T*>(p.x) + tile.image * p.h * p.w * p.c + panel * kPanel;
    float* v = p.workspace + at.v + (panel * chunk + t) * kPanel;
    for_each_vector(p.c, panel, [&](int lane, int64_t count) {
      if (at.fetches_ahead && t + kTilesAhead < end) {
        fetch_positions(v + kTilesAhead * kPanel + lane, at.v_stride);
      }
      transform_patch<transform_pixels, 6>(image + lane, p.h, p.w, p.c, tile.y - p.pad,
                                           tile.x - p.pad, count, v + lane, at.v_stride);
    });
  });
}

// dy -> M, for tiles first + [begin, end).
template <typename T>
void transform_output_gradient(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), h = p.h + 2 * p.pad - 2, w = p.w + 2 * p.pad - 2;
  for_each_panel_of(p.k, begin, end, [&](int64_t panel, int64_t t) {
    const Tile tile(at, first + t);
    const T* image = static_cast<const T*>(p.y) + tile.image * h * w * p.k + panel * kPanel;
    float* m = p.workspace + at.m + (panel * chunk + t) * kPanel;
    for_each_vector(p.k, panel, [&](int lane, int64_t count) {
      if (at.fetches_ahead && t + kTilesAhead < end) {
        fetch_positions(m + kTilesAhead * kPanel + lane, at.m_stride);
      }
      transform_patch<transform_gradients, 4>(image + lane, h, w, p.k, tile.y, tile.x, count,
                                              m + lane, at.m_stride);
    });
  });
}

// M -> y, for tiles first + [begin, end).
template <typename T>
void transform_output(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), h = p.h + 2 * p.pad - 2, w = p.w + 2 * p.pad - 2;
  for_each_panel_of(p.k, begin, end, [&](int64_t panel, int64_t t) {
    const Tile tile(at, first + t);
    T* corner =
        static_cast<T*>(p.y) + ((tile.image * h + tile.y) * w + tile.x) * p.k + panel * kPanel;
    const int64_t bottom = std::min<int64_t>(4, h - tile.y),
                  right = std::min<int64_t>(4, w - tile.x);
    const float* m = p.workspace + at.m + (panel * chunk + t) * kPanel;
    for_each_vector(p.k, panel, [&](int lane, int64_t count) {
      if (count <= 0) return;
      along_both_axes<transform_products, 6, 4>(
          [&](int i, int j) { return load(m + lane + (i * 6 + j) * at.m_stride); },
          [&](int i, int j, VecF value) {
            if (i < bottom && j < right) store(corner + (i * w + j) * p.k + lane, value, count);
          });
    });
  });
}

// The taps of a panel of outputs with a panel of inputs -> [tap][input][output], zero beyond K and
// C; `flipped` as in Conv3x3Params.
inline void gather_taps(const Conv3x3Params& p, int64_t k0, int64_t c0,
                        float (&taps)[9][kPanel][kPanel]) {
  constexpr int kLanes = kVectorLanes<float>;
  for (int tap = 0; tap < 9; ++tap) {
    for (int c = 0; c < kPanel; ++c) {
      for (int k = 0; k < kPanel && p.flipped; k += kLanes) {
        const float* from = p.weight + ((c0 + c) * 9 + 8 - tap) * p.k + k0 + k;
        const int64_t count = c0 + c < p.c ? p.k - k0 - k : 0;
        store(&taps[tap][c][k], count > 0 ? load(from, count) : VecF{});
      }
    }
    for (int c = 0; c < kPanel && !p.flipped; c += kLanes) {
      for (int k = 0; k < kPanel; k += kLanes) {
        VecF rows[kLanes];
        const int64_t count = p.c - c0 - c;
        for (int i = 0; i < kLanes; ++i) {
          const float* from = p.weight + ((k0 + k + i) * 9 + tap) * p.c + c0 + c;
          rows[i] = k0 + k + i < p.k && count > 0 ? load(from, count) : VecF{};
        }
        transpose(rows);
        for (int i = 0; i < kLanes; ++i) store(&taps[tap][c + i][k], rows[i]);
      }
    }
  }
}

// weight -> U; a slice is one panel of outputs with one panel of inputs.
void transform_weight(const Conv3x3Params& p, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  for (int64_t slice = begin; slice < end; ++slice) {
    const int64_t k0 = slice / at.c_panels * kPanel, c0 = slice % at.c_panels * kPanel;
    float* u = p.workspace + at.u + (k0 / kPanel * at.c_panels * kPanel + c0) * kPanel;
    float taps[9][kPanel][kPanel];
    gather_taps(p, k0, c0, taps);
    for (int c = 0; c < kPanel; ++c, u += kPanel) {
      for (int lane = 0; lane < kPanel; lane += kVectorLanes<float>) {
        if (at.fetches_ahead) fetch_positions(u + kTilesAhead * kPanel + lane, at.u_stride);
        along_both_axes<transform_weights, 3, 6>(
            [&](int i, int j) { return load(&taps[i * 3 + j][c][lane]); },
            [&](int i, int j, VecF value) { store(u + lane + (i * 6 + j) * at.u_stride, value); });
      }
    }
  }
}

// Memory that the next slice works on, fetched bit by bit while this one multiplies.
class Ahead {
 public:
  // `fetch` will be called `calls` times.
  explicit Ahead(int64_t calls) : calls_(calls) {}

  void add(const float* first, int64_t floats) {
    parts_[count_++] = {first, ceil_div(ceil_div(floats, kLine), calls_) * kLine};
  }

  // The `index`-th of `shares` equal shares.
  void add_share(const float* first, int64_t floats, int64_t index, int64_t shares) {
    const int64_t share = ceil_div(floats, shares);
    add(first + index * share, share);
  }

  __attribute__((always_inline)) void fetch() {
    for (int i = 0; i < count_; ++i) {
      const float* end = parts_[i].next + parts_[i].floats;
      for (; parts_[i].next < end; parts_[i].next += kLine) {
        __builtin_prefetch(parts_[i].next, 0, 2);
      }
    }
  }

 private:
  static constexpr int64_t kLine = 16;  // floats
  struct Part {
    const float* next;
    int64_t floats;  // in a call
  };
  Part parts_[3];
  int count_ = 0;
  int64_t calls_;
};

// What a slice of a product works on: one of the 36 positions of one panel of outputs.
struct Operands {
  float *v, *m, *u;
  Operands(const Conv3x3Geometry& at, float* workspace, int64_t chunk, int64_t slice) {
    const int64_t position = slice / at.k_panels, panel = slice % at.k_panels;
    v = workspace + at.v + position * at.v_stride;
    m = workspace + at.m + position * at.m_stride + panel * chunk * kPanel;
    u = workspace + at.u + position * at.u_stride + panel * at.c_panels * kPanel * kPanel;
  }
};

// V times U -> M; a slice is one of the 36 positions of one panel of outputs.
void multiply(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), panel = chunk * kPanel;
  for (int64_t slice = begin; slice < end; ++slice) {
    const Operands now(at, p.workspace, chunk, slice);
    Ahead ahead(ceil_div(chunk, kRows) * at.c_panels);
    if (at.fetches_ahead && slice + 1 < end) {
      const Operands next(at, p.workspace, chunk, slice + 1);
      ahead.add(next.u, at.c_panels * kPanel * kPanel);
      ahead.add(next.m, panel);
      ahead.add_share(now.v + at.v_stride, at.c_panels * panel, slice % at.k_panels, at.k_panels);
    }
    for_each_row_group(chunk, [&](auto rows, int64_t t) {
      VecF acc[rows][2] = {};
      for (int64_t i = 0; i < at.c_panels; ++i) {
        ahead.fetch();
        multiply_add(acc, now.v + i * panel + t * kPanel, kPanel, 1, now.u + i * kPanel * kPanel,
                     kPanel, kPanel);
      }
      store_rows(now.m + t * kPanel, acc, false);
    });
  }
}

// S += M^T V over the chunk's tiles; a slice is one of the 36 positions of one panel of outputs.
void correlate(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), panel = chunk * kPanel;
  for (int64_t slice = begin; slice < end; ++slice) {
    const Operands now(at, p.workspace, chunk, slice);
    const int64_t k_panel = slice % at.k_panels;
    float* sums = p.workspace + at.u + slice / at.k_panels * at.u_stride;
    Ahead ahead(at.c_panels * ceil_div(kPanel, kRows) * ceil_div(chunk, kPanel));
    if (at.fetches_ahead && slice + 1 < end) {
      ahead.add(Operands(at, p.workspace, chunk, slice + 1).m, panel);
      ahead.add_share(now.v + at.v_stride, at.c_panels * panel, k_panel, at.k_panels);
      ahead.add_share(sums + at.u_stride, at.c_panels * at.k_panels * kPanel * kPanel, k_panel,
                      at.k_panels);
    }
    for (int64_t c_panel = 0; c_panel < at.c_panels; ++c_panel) {
      const float* v = now.v + c_panel * panel;
      float* s = sums + (c_panel * at.k_panels + k_panel) * kPanel * kPanel;
      for_each_row_group(kPanel, [&](auto rows, int64_t k) {
        VecF acc[rows][2] = {};
        for (int64_t t = 0; t < chunk; t += kPanel) {
          ahead.fetch();
          multiply_add(acc, now.m + t * kPanel + k, 1, kPanel, v + t * kPanel, kPanel,
                       std::min<int64_t>(kPanel, chunk - t));
        }
        store_rows(s + k * kPanel, acc, first > 0);
      });
    }
  }
}

// S -> grad_weight; a slice is one output channel.
void gather_weight_gradient(const Conv3x3Params& p, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  for_each_panel_of(p.c, begin, end, [&](int64_t panel, int64_t k) {
    const float* s = p.workspace + at.u + (panel * at.k_panels * kPanel + k) * kPanel;
    for_each_vector(p.c, panel, [&](int lane, int64_t count) {
      if (count <= 0) return;
      float* out = p.grad_weight + k * 9 * p.c + panel * kPanel + lane;
      along_both_axes<gather_weights, 6, 3>(
          [&](int i, int j) { return load(s + lane + (i * 6 + j) * at.u_stride); },
          [&](int i, int j, VecF value) { store(out + (i * 3 + j) * p.c, value, count); });
    });
  });
}

// Calls f with an element of the type of x and y.
template <typename F>
void on_type(const Conv3x3Params& p, const F& f) {
  p.dtype == DType::kBFloat16 ? f(BFloat16{}) : f(float{});
}

int64_t workspace_floats(const Conv3x3Params& p) { return Conv3x3Geometry(p).total; }

int64_t chunks(const Conv3x3Params& p) {
  return ceil_div(Conv3x3Geometry(p).tiles, kTilesPerChunk);
}

// Of the forward pass: the weights, then for each chunk patches, products, pixels. Of the other:
// for each chunk patches, gradients, sums; then the weights.
int64_t slices_of_phase(const Conv3x3Params& p, Conv3x3Pass pass, int64_t phase) {
  const Conv3x3Geometry at(p);
  const bool forward = pass == Conv3x3Pass::kForward;
  if (phase == (forward ? 0 : 3 * chunks(p))) return forward ? at.k_panels * at.c_panels : p.k;
  const int64_t step = forward ? phase - 1 : phase;
  const bool products = step % 3 == (forward ? 1 : 2);
  return products ? 36 * at.k_panels : at.chunk_at(step / 3 * kTilesPerChunk);
}

void run_forward(const Conv3x3Params& p, int64_t phase, int64_t begin, int64_t end) {
  if (phase == 0) return transform_weight(p, begin, end);
  const int64_t first = (phase - 1) / 3 * kTilesPerChunk;
  on_type(p, [&](auto element) {
    using T = decltype(element);
    switch ((phase - 1) % 3) {
      case 0:
        return transform_input<T>(p, first, begin, end);
      case 1:
        return multiply(p, first, begin, end);
      default:
        return transform_output<T>(p, first, begin, end);
    }
  });
}

void run_weight_gradient(const Conv3x3Params& p, int64_t phase, int64_t begin, int64_t end) {
  if (phase == 3 * chunks(p)) return gather_weight_gradient(p, begin, end);
  const int64_t first = phase / 3 * kTilesPerChunk;
  on_type(p, [&](auto element) {
    using T = decltype(element);
    switch (phase % 3) {
      case 0:
        return transform_input<T>(p, first, begin, end);
      case 1:
        return transform_output_gradient<T>(p, first, begin, end);
      default:
        return correlate(p, first, begin, end);
    }
  });
}

void run_phase(const Conv3x3Params& p, Conv3x3Pass pass, int64_t phase, int64_t begin,
               int64_t end) {
  pass == Conv3x3Pass::kForward ? run_forward(p, phase, begin, end)
                                : run_weight_gradient(p, phase, begin, end);
}
