// The phases of conv3x3. Everything between them lies in panels of kPanel channels:
//   patches   V [36][C / kPanel][tiles][kPanel]   B^T x B
//   weights   U [36][K / kPanel][C padded][kPanel]   G w G^T
//   products  M [36][K / kPanel][tiles][kPanel]   the forward pass: V times U; the other: A dy A^T
//   sums      S [36][C / kPanel][K padded][kPanel]   of the weight gradient: M^T V
// Channels beyond C and K are zero. One chunk of tiles is worked on at a time.

#include "cpu_conv/panels.simd.h"
#include "cpu_conv/winograd.simd.h"

// The sizes of a pass, and where its parts lie in the workspace; counted in floats.
struct Conv3x3Geometry {
  int64_t rows, columns;                 // of tiles in an image of y
  int64_t tiles;                         // in all images
  int64_t c_panels, k_panels;            //
  int64_t v_stride, m_stride, u_stride;  // from one of the 36 positions to the next
  int64_t v, m, u, total;

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

// kSide x kSide pixels of an image [H, W, C] from (y, x); those outside, and the lanes from `count`
// on, are zero.
template <int kSide, typename T>
inline void load_patch(const T* image, int64_t h, int64_t w, int64_t c, int64_t y, int64_t x,
                       int64_t count, VecF (&out)[kSide][kSide]) {
  const T* first = image + (y * w + x) * c;
  const bool inside = y >= 0 && x >= 0 && y + kSide <= h && x + kSide <= w;
  if (inside && count >= kVectorLanes<T>) {
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) out[i][j] = load(first + (i * w + j) * c);
    }
    return;
  }
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) out[i][j] = VecF{};
  }
  const int top = int(std::max<int64_t>(0, -y)), bottom = int(std::min<int64_t>(kSide, h - y));
  const int left = int(std::max<int64_t>(0, -x)), right = int(std::min<int64_t>(kSide, w - x));
  for (int i = top; i < bottom && count > 0; ++i) {
    for (int j = left; j < right; ++j) out[i][j] = load(first + (i * w + j) * c, count);
  }
}

template <int kSide>
inline void store_positions(float* first, int64_t stride, const VecF (&values)[kSide][kSide]) {
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) store(first + (i * kSide + j) * stride, values[i][j]);
  }
}

template <int kSide>
inline void load_positions(const float* first, int64_t stride, VecF (&values)[kSide][kSide]) {
  for (int i = 0; i < kSide; ++i) {
    for (int j = 0; j < kSide; ++j) values[i][j] = load(first + (i * kSide + j) * stride);
  }
}

// Calls f(panel, lane, count): for each vector of `channels` its position in the panels, and how
// many of its lanes are channels (none or fewer where a panel is padded).
template <typename F>
inline void for_each_vector(int64_t channels, const F& f) {
  for (int64_t panel = 0; panel < ceil_div(channels, kPanel); ++panel) {
    for (int64_t lane = 0; lane < kPanel; lane += kVectorLanes<float>) {
      f(panel, lane, channels - panel * kPanel - lane);
    }
  }
}

// x -> V, for tiles first + [begin, end).
template <typename T>
void transform_input(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first);
  for (int64_t t = begin; t < end; ++t) {
    const Tile tile(at, first + t);
    const T* image = static_cast<const T*>(p.x) + tile.image * p.h * p.w * p.c;
    for_each_vector(p.c, [&](int64_t panel, int64_t lane, int64_t count) {
      VecF patch[6][6], positions[6][6];
      load_patch(image + panel * kPanel + lane, p.h, p.w, p.c, tile.y - p.pad, tile.x - p.pad,
                 count, patch);
      along_both_axes<transform_pixels>(patch, positions);
      store_positions(p.workspace + at.v + (panel * chunk + t) * kPanel + lane, at.v_stride,
                      positions);
    });
  }
}

// dy -> M, for tiles first + [begin, end).
template <typename T>
void transform_output_gradient(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), h = p.h + 2 * p.pad - 2, w = p.w + 2 * p.pad - 2;
  for (int64_t t = begin; t < end; ++t) {
    const Tile tile(at, first + t);
    const T* image = static_cast<const T*>(p.y) + tile.image * h * w * p.k;
    for_each_vector(p.k, [&](int64_t panel, int64_t lane, int64_t count) {
      VecF pixels[4][4], positions[6][6];
      load_patch(image + panel * kPanel + lane, h, w, p.k, tile.y, tile.x, count, pixels);
      along_both_axes<transform_gradients>(pixels, positions);
      store_positions(p.workspace + at.m + (panel * chunk + t) * kPanel + lane, at.m_stride,
                      positions);
    });
  }
}

// M -> y, for tiles first + [begin, end).
template <typename T>
void transform_output(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first), h = p.h + 2 * p.pad - 2, w = p.w + 2 * p.pad - 2;
  for (int64_t t = begin; t < end; ++t) {
    const Tile tile(at, first + t);
    T* corner = static_cast<T*>(p.y) + ((tile.image * h + tile.y) * w + tile.x) * p.k;
    const int64_t bottom = std::min<int64_t>(4, h - tile.y),
                  right = std::min<int64_t>(4, w - tile.x);
    for_each_vector(p.k, [&](int64_t panel, int64_t lane, int64_t count) {
      if (count <= 0) return;
      VecF positions[6][6], pixels[4][4];
      load_positions(p.workspace + at.m + (panel * chunk + t) * kPanel + lane, at.m_stride,
                     positions);
      along_both_axes<transform_products>(positions, pixels);
      for (int64_t i = 0; i < bottom; ++i) {
        for (int64_t j = 0; j < right; ++j) {
          store(corner + (i * w + j) * p.k + panel * kPanel + lane, pixels[i][j], count);
        }
      }
    });
  }
}

// weight -> U; a slice is one panel of outputs with one panel of inputs.
void transform_weight(const Conv3x3Params& p, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  for (int64_t slice = begin; slice < end; ++slice) {
    const int64_t k0 = slice / at.c_panels * kPanel, c0 = slice % at.c_panels * kPanel;
    const int64_t count = std::min<int64_t>(kPanel, p.k - k0);
    float* panel = p.workspace + at.u + (k0 / kPanel * at.c_panels * kPanel + c0) * kPanel;
    for (int64_t c = c0; c < c0 + kPanel; ++c) {
      float taps[9][kPanel] = {};  // of input c, for each output
      for (int tap = 0; tap < 9 && c < p.c; ++tap) {
        if (p.flipped) {
          std::memcpy(taps[tap], p.weight + (c * 9 + 8 - tap) * p.k + k0, count * sizeof(float));
        } else {
          const float* w = p.weight + (k0 * 9 + tap) * p.c + c;
          for (int64_t k = 0; k < count; ++k) taps[tap][k] = w[k * 9 * p.c];
        }
      }
      for (int lane = 0; lane < kPanel; lane += kVectorLanes<float>) {
        VecF kernel[3][3], positions[6][6];
        for (int tap = 0; tap < 9; ++tap) kernel[tap / 3][tap % 3] = load(&taps[tap][lane]);
        along_both_axes<transform_weights>(kernel, positions);
        store_positions(panel + (c - c0) * kPanel + lane, at.u_stride, positions);
      }
    }
  }
}

// V times U -> M; a slice is one of the 36 positions of one panel of outputs.
void multiply(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first);
  for (int64_t slice = begin; slice < end; ++slice) {
    const int64_t position = slice / at.k_panels, panel = slice % at.k_panels;
    const float* v = p.workspace + at.v + position * at.v_stride;
    const float* u =
        p.workspace + at.u + position * at.u_stride + panel * at.c_panels * kPanel * kPanel;
    float* m = p.workspace + at.m + position * at.m_stride + panel * chunk * kPanel;
    for_each_row_group(chunk, [&](auto rows, int64_t t) {
      VecF acc[rows][2] = {};
      for (int64_t i = 0; i < at.c_panels; ++i) {
        multiply_add(acc, v + (i * chunk + t) * kPanel, kPanel, 1, u + i * kPanel * kPanel, kPanel,
                     kPanel);
      }
      store_rows(m + t * kPanel, acc, false);
    });
  }
}

// S += M^T V over the chunk's tiles; a slice is one of the 36 positions of one panel of outputs.
void correlate(const Conv3x3Params& p, int64_t first, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  const int64_t chunk = at.chunk_at(first);
  for (int64_t slice = begin; slice < end; ++slice) {
    const int64_t position = slice / at.k_panels, k_panel = slice % at.k_panels;
    const float* m = p.workspace + at.m + position * at.m_stride + k_panel * chunk * kPanel;
    for (int64_t c_panel = 0; c_panel < at.c_panels; ++c_panel) {
      const float* v = p.workspace + at.v + position * at.v_stride + c_panel * chunk * kPanel;
      float* s = p.workspace + at.u + position * at.u_stride +
                 (c_panel * at.k_panels + k_panel) * kPanel * kPanel;
      for_each_row_group(kPanel, [&](auto rows, int64_t k) {
        VecF acc[rows][2] = {};
        multiply_add(acc, m + k, 1, kPanel, v, kPanel, chunk);
        store_rows(s + k * kPanel, acc, first > 0);
      });
    }
  }
}

// S -> grad_weight; a slice is one output channel.
void gather_weight_gradient(const Conv3x3Params& p, int64_t begin, int64_t end) {
  const Conv3x3Geometry at(p);
  for (int64_t k = begin; k < end; ++k) {
    for_each_vector(p.c, [&](int64_t panel, int64_t lane, int64_t count) {
      if (count <= 0) return;
      VecF positions[6][6], kernel[3][3];
      load_positions(p.workspace + at.u + (panel * at.k_panels * kPanel + k) * kPanel + lane,
                     at.u_stride, positions);
      along_both_axes<gather_weights>(positions, kernel);
      for (int tap = 0; tap < 9; ++tap) {
        store(p.grad_weight + (k * 9 + tap) * p.c + panel * kPanel + lane, kernel[tap / 3][tap % 3],
              count);
      }
    });
  }
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
