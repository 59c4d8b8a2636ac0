// The phases of conv2d: what is summed is first laid out as float with its zeros (phase 0), the
// weights as panels of outputs (phase 1); then come the sums (phase 2).
//
// The input gradient is a forward pass of stride 1 over dL/dy, one for each of the stride^2 classes
// of pixels of x that see the same taps of the kernel: tap r for row y where (y + pad - r) is a
// multiple of the stride.

#include "cpu_conv/panels.simd.h"

constexpr int kFewOutputs = 4;  // so few do not fill a panel

// One forward pass of a class: output q sees source pixels [q step, q step + taps).
struct Taps {
  int64_t rows, columns;  // of the kernel that this class sees
  int64_t row0, column0;  // the first of them; the others are `stride` apart
};

inline Taps taps_of(const Conv2dParams& p, Conv2dPass pass, int64_t class_y, int64_t class_x) {
  if (pass != Conv2dPass::kInputGradient) return {p.r, p.s, 0, 0};
  return {ceil_div(std::max<int64_t>(p.r - class_y, 0), p.stride),
          ceil_div(std::max<int64_t>(p.s - class_x, 0), p.stride), class_y, class_x};
}

// The sizes of what a pass reads and writes, and where its parts lie in the workspace, counted in
// floats.
struct Conv2dGeometry {
  bool back;                       // the input gradient
  int64_t in_h, in_w, in_c;        // of what is summed: x, or dL/dy
  int64_t out_h, out_w, out_c;     // of what is written: y, or dL/dx
  int64_t before_y, before_x;      // zeros before it
  int64_t source_h, source_w;      // with its zeros
  bool copies;                     // whether it is laid out anew, or already lies so
  int64_t classes;                 // in each direction
  bool narrow;                     // so few outputs that sums run along the inputs instead
  int64_t panels, panel, weights;  // of a class: outputs / kPanel, size of one, size of all
  int64_t source, gradients, u, total;

  Conv2dGeometry(const Conv2dParams& p, Conv2dPass pass) {
    back = pass == Conv2dPass::kInputGradient;
    in_h = back ? p.oh : p.h, in_w = back ? p.ow : p.w, in_c = back ? p.k : p.c;
    out_h = back ? p.h : p.oh, out_w = back ? p.w : p.ow, out_c = back ? p.c : p.k;
    classes = back ? p.stride : 1;
    const int64_t max_y = ceil_div(p.r, classes), max_x = ceil_div(p.s, classes);
    before_y = back ? max_y - 1 : p.pad;
    before_x = back ? max_x - 1 : p.pad;
    source_h = before_y + (back ? std::max(p.oh, (p.h - 1 + p.pad) / p.stride + 1)
                                : std::max(p.h, (p.oh - 1) * p.stride + p.r - p.pad));
    source_w = before_x + (back ? std::max(p.ow, (p.w - 1 + p.pad) / p.stride + 1)
                                : std::max(p.w, (p.ow - 1) * p.stride + p.s - p.pad));
    const bool sums_weights = pass == Conv2dPass::kWeightGradient;
    copies = p.dtype != DType::kFloat32 || source_h != in_h || source_w != in_w ||
             (sums_weights && p.s * p.c % (2 * kPanel) != 0);
    narrow = out_c <= kFewOutputs;
    panels = narrow ? 1 : ceil_div(out_c, kPanel);
    panel = max_y * max_x * in_c * kPanel;
    weights = narrow ? max_y * max_x * in_c * out_c : panels * panel;
    source = 0;
    // Some more than needed: the last numbers under a kernel are read with their neighbours.
    gradients = source + (copies ? p.n * source_h * source_w * in_c + 2 * kPanel : 0);
    u = gradients + (sums_weights && p.dtype != DType::kFloat32 ? p.n * p.oh * p.ow * p.k : 0);
    total = u + (sums_weights ? 0 : classes * classes * weights);
  }

  // Rows of the output in a slice of phase 2: enough to use a panel of weights again.
  int64_t rows_per_slice() const { return std::min(out_h, ceil_div(64, out_w)); }
};

template <typename T>
inline void widen_row(const T* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += kVectorLanes<float>) {
    store(to + i, load(from + i, count - i), count - i);
  }
}

// x or dL/dy as float with zeros around; a slice is one row.
template <typename T>
void lay_out_source(const Conv2dParams& p, const Conv2dGeometry& at, int64_t begin, int64_t end) {
  const T* in = static_cast<const T*>(at.back ? p.y : p.x);
  for (int64_t row = begin; row < end; ++row) {
    const int64_t y = row % at.source_h - at.before_y;
    float* to = p.workspace + at.source + row * at.source_w * at.in_c;
    if (y < 0 || y >= at.in_h) {
      std::fill_n(to, at.source_w * at.in_c, 0.0f);
      continue;
    }
    std::fill_n(to, at.before_x * at.in_c, 0.0f);
    to += at.before_x * at.in_c;
    widen_row(in + (row / at.source_h * at.in_h + y) * at.in_w * at.in_c, at.in_w * at.in_c, to);
    std::fill_n(to + at.in_w * at.in_c, (at.source_w - at.before_x - at.in_w) * at.in_c, 0.0f);
  }
}

// weight -> panels [class][panel][taps][inputs][kPanel], or narrow [class][output][taps][inputs]; a
// slice is kPanel inputs.
void lay_out_weights(const Conv2dParams& p, Conv2dPass pass, const Conv2dGeometry& at,
                     int64_t begin, int64_t end) {
  const int64_t width = at.narrow ? at.out_c : kPanel, taps_of_kernel = p.r * p.s;
  const int64_t first = begin * kPanel, last = std::min(end * kPanel, at.in_c);
  for (int64_t c = 0; c < at.classes * at.classes; ++c) {
    const Taps taps = taps_of(p, pass, c / at.classes, c % at.classes);
    const int64_t outputs = taps.rows * taps.columns * at.in_c;  // from one to the next, if narrow
    for (int64_t part = 0; part < taps.rows * taps.columns * at.panels; ++part) {
      const int64_t tap = part / at.panels, o0 = part % at.panels * kPanel;
      const int64_t count = std::min(width, at.out_c - o0);
      const int64_t y = tap / taps.columns, x = tap % taps.columns;
      float* u = p.workspace + at.u + c * at.weights;
      u += at.narrow ? tap * at.in_c : part % at.panels * at.panel + tap * at.in_c * kPanel;
      const int64_t o_step = at.narrow ? outputs : 1, i_step = at.narrow ? 1 : kPanel;
      if (!at.narrow && count < kPanel) {
        std::fill(u + first * kPanel, u + last * kPanel, 0.0f);
      }
      const int64_t r = at.back ? taps.row0 + (taps.rows - 1 - y) * p.stride : y;
      const int64_t s = at.back ? taps.column0 + (taps.columns - 1 - x) * p.stride : x;
      const float* from =
          p.weight + (r * p.s + s) * p.c;  // of output channel 0 and input channel 0
      const int64_t from_o = at.back ? 1 : taps_of_kernel * p.c,
                    from_i = at.back ? taps_of_kernel * p.c : 1;
      for (int64_t i0 = first; i0 < last; i0 += kPanel) {
        for (int64_t o = 0; o < count; ++o) {
          for (int64_t i = i0; i < std::min(i0 + kPanel, last); ++i) {
            u[o * o_step + i * i_step] = from[(o0 + o) * from_o + i * from_i];
          }
        }
      }
    }
  }
}

// One row of pixels of the output, of one class: `count` of them, `out_step` floats of T apart.
template <typename T>
struct RowOfPixels {
  const float* source;   // under the first tap of the first pixel
  int64_t source_row;    // floats from one row of the source to the next
  int64_t step;          // floats from one pixel's first tap to the next's
  int64_t taps, length;  // rows of the kernel, and numbers under one of them
  const float* weights;
  T* out;
  int64_t out_step, count;
};

// The first kVecs vectors of a panel of outputs, some pixels at a time.
template <int kVecs, typename T>
inline void sum_panel(const RowOfPixels<T>& row, const float* bias, int64_t channels) {
  float start[kPanel] = {};
  if (bias != nullptr) std::copy_n(bias, channels, start);
  for_each_row_group(row.count, [&](auto pixels, int64_t first) {
    VecF acc[pixels][kVecs];
    for (int i = 0; i < pixels; ++i) {
      for (int v = 0; v < kVecs; ++v) acc[i][v] = load(start + v * kVectorLanes<float>);
    }
    for (int64_t tap = 0; tap < row.taps; ++tap) {
      multiply_add(acc, row.source + tap * row.source_row + first * row.step, row.step, 1,
                   row.weights + tap * row.length * kPanel, kPanel, row.length);
    }
    for (int i = 0; i < pixels; ++i) {
      T* out = row.out + (first + i) * row.out_step;
      for (int v = 0; v < kVecs; ++v) {
        store(out + v * kVectorLanes<float>, acc[i][v], channels - v * kVectorLanes<float>);
      }
    }
  });
}

// acc[i][o] += a[i step + :] * b[o b_step + :], vectors of inputs; `left` of their lanes count.
template <bool kWhole, int kPixels, int kOutputs>
inline __attribute__((always_inline)) void multiply_along(VecF (&acc)[kPixels][kOutputs],
                                                          const float* a, int64_t step,
                                                          const float* b, int64_t b_step,
                                                          int64_t left) {
  VecF weights[kOutputs];
  for (int o = 0; o < kOutputs; ++o) {
    weights[o] = kWhole ? load(b + o * b_step) : load(b + o * b_step, left);
  }
  for (int i = 0; i < kPixels; ++i) {
    const VecF pixel = kWhole ? load(a + i * step) : load(a + i * step, left);
    for (int o = 0; o < kOutputs; ++o) acc[i][o] += pixel * weights[o];
  }
}

// kOutputs outputs, each a sum along the vectors of a pixel's inputs; kPixels pixels at a time.
template <int kPixels, int kOutputs, typename T>
inline void sum_along_inputs(const RowOfPixels<T>& row, const float* bias, int64_t first) {
  VecF acc[kPixels][kOutputs] = {};
  const int64_t b_step = row.taps * row.length;
  for (int64_t tap = 0; tap < row.taps; ++tap) {
    const float* a = row.source + tap * row.source_row + first * row.step;
    const float* b = row.weights + tap * row.length;
    int64_t t = 0;
    for (; t + kVectorLanes<float> <= row.length; t += kVectorLanes<float>) {
      multiply_along<true>(acc, a + t, row.step, b + t, b_step, 0);
    }
    if (t < row.length) {
      multiply_along<false>(acc, a + t, row.step, b + t, b_step, row.length - t);
    }
  }
  for (int i = 0; i < kPixels; ++i) {
    for (int o = 0; o < kOutputs; ++o) {
      const float sum = sum_of_lanes<float>(acc[i][o]) + (bias == nullptr ? 0.0f : bias[o]);
      row.out[(first + i) * row.out_step + o] = narrow<T>(sum);
    }
  }
}

template <int kOutputs, typename T>
void sum_narrow(const RowOfPixels<T>& row, const float* bias) {
  int64_t i = 0;
  for (; i + 4 <= row.count; i += 4) sum_along_inputs<4, kOutputs>(row, bias, i);
  for (; i < row.count; ++i) sum_along_inputs<1, kOutputs>(row, bias, i);
}

// Row `index` of all images' output rows, of one class in x and one panel of outputs.
template <typename T>
RowOfPixels<T> row_of_pixels(const Conv2dParams& p, Conv2dPass pass, const Conv2dGeometry& at,
                             int64_t index, int64_t class_x, int64_t panel) {
  const int64_t image = index / at.out_h, y = index % at.out_h;
  const int64_t class_y = at.back ? (y + p.pad) % p.stride : 0;
  const Taps taps = taps_of(p, pass, class_y, class_x);
  // The first pixel of the class, and the source's row and column under its first tap.
  const int64_t first = at.back ? ((class_x - p.pad) % p.stride + p.stride) % p.stride : 0;
  const int64_t from_y =
      at.back ? (y + p.pad) / p.stride - taps.rows + 1 + at.before_y : y * p.stride;
  const int64_t from_x = at.back ? (first + p.pad) / p.stride - taps.columns + 1 + at.before_x : 0;
  RowOfPixels<T> row;
  row.source_row = at.source_w * at.in_c;
  row.source = (at.copies ? p.workspace + at.source : static_cast<float*>(at.back ? p.y : p.x)) +
               (image * at.source_h + from_y) * row.source_row + from_x * at.in_c;
  row.step = (at.back ? 1 : p.stride) * at.in_c;
  row.taps = taps.rows, row.length = taps.columns * at.in_c;
  row.weights = p.workspace + at.u + (class_y * at.classes + class_x) * at.weights +
                (at.narrow ? 0 : panel * at.panel);
  row.out =
      static_cast<T*>(at.back ? p.x : p.y) + (index * at.out_w + first) * at.out_c + panel * kPanel;
  row.out_step = at.classes * at.out_c;
  row.count = first < at.out_w ? ceil_div(at.out_w - first, at.classes) : 0;
  return row;
}

// The sums; a slice is some rows of the output.
template <typename T>
void sum_pixels(const Conv2dParams& p, Conv2dPass pass, const Conv2dGeometry& at, int64_t begin,
                int64_t end) {
  const int64_t rows = at.rows_per_slice();
  const float* bias = at.back ? nullptr : p.bias;
  for (int64_t slice = begin; slice < end; ++slice) {
    const int64_t last = std::min((slice + 1) * rows, p.n * at.out_h);
    for (int64_t panel = 0; panel < at.panels; ++panel) {
      for (int64_t part = 0; part < rows * at.classes; ++part) {
        const int64_t index = slice * rows + part / at.classes;
        if (index >= last) break;
        const auto row = row_of_pixels<T>(p, pass, at, index, part % at.classes, panel);
        if (at.narrow) {
          with_constant<kFewOutputs>(
              at.out_c, 0, [&](auto outputs, int64_t) { sum_narrow<outputs>(row, bias); });
          continue;
        }
        const int64_t channels = std::min<int64_t>(kPanel, at.out_c - panel * kPanel);
        const float* start = bias == nullptr ? nullptr : bias + panel * kPanel;
        channels > kVectorLanes<float> ? sum_panel<2>(row, start, channels)
                                       : sum_panel<1>(row, start, channels);
      }
    }
  }
}

// ---- The weight gradient: dw[k][r][t] = sum over pixels of dL/dy[pixel][k] x[pixel, r][t] ----

constexpr int64_t kOutputsPerSlice = 64;
constexpr int64_t kPixelsPerBlock = 96;  // summed in registers before they go to memory

// Few outputs: the kernel's rows are distributed as well.
inline bool splits_kernel_rows(const Conv2dParams& p) { return p.k <= 4 * kOutputsPerSlice; }

// Adds the sums of `kCount` outputs, those in memory from `from` on, or starts with them.
template <int kCount, int kVecs>
inline void add_sums(const Conv2dParams& p, const VecF (&acc)[kCount][kVecs], int64_t k, int64_t r,
                     int64_t t, bool start) {
  const int64_t length = p.s * p.c;
  for (int i = 0; i < kCount; ++i) {
    float* out = p.grad_weight + ((k + i) * p.r + r) * length;
    for (int v = 0; v < kVecs && t + v * kVectorLanes<float> < length; ++v) {
      const int64_t at = t + v * kVectorLanes<float>;
      const VecF before = start ? VecF{} : load(out + at, length - at);
      store(out + at, before + acc[i][v], length - at);
    }
  }
}

// A few outputs: pixels are read where they lie, four vectors of them.
template <int kOutputs>
void sum_narrow_weights(const Conv2dParams& p, const Conv2dGeometry& at, const float* source,
                        const float* dy, int64_t r) {
  for (int64_t row = 0; row < p.n * p.oh; ++row) {
    const int64_t y = row / p.oh * at.source_h + row % p.oh * p.stride + r;
    for (int64_t t = 0; t < p.s * p.c; t += 2 * kPanel) {
      VecF acc[kOutputs][4] = {};
      multiply_add(acc, dy + row * p.ow * kOutputs, 1, kOutputs, source + y * at.source_w * p.c + t,
                   p.stride * p.c, p.ow);
      add_sums(p, acc, 0, r, t, row == 0);
    }
  }
}

// Outputs [k0, k1) under rows [r0, r1) of the kernel, a block of pixels at a time, which is laid
// side by side so that it stays in the first cache.
void sum_many_weights(const Conv2dParams& p, const Conv2dGeometry& at, const float* source,
                      const float* dy, int64_t k0, int64_t k1, int64_t r0, int64_t r1) {
  float gradients[kPixelsPerBlock][kOutputsPerSlice], inputs[kPixelsPerBlock][kPanel];
  const float* under[kPixelsPerBlock];             // the source under the first tap of the kernel
  const bool one_slice = p.k <= kOutputsPerSlice;  // dL/dy lies side by side already
  int64_t row = 0, column = 0;                     // of the next pixel
  for (int64_t first = 0; row < p.n * p.oh; first += kPixelsPerBlock) {
    int64_t count = 0;
    while (count < kPixelsPerBlock && row < p.n * p.oh) {
      const int64_t y = row / p.oh * at.source_h + row % p.oh * p.stride;
      const float* begin = source + y * at.source_w * p.c;
      for (; count < kPixelsPerBlock && column < p.ow; ++column) {
        under[count++] = begin + column * p.stride * p.c;
      }
      if (column == p.ow) column = 0, ++row;
    }
    const float* block = dy + first * p.k + k0;
    for (int64_t i = 0; i < count && !one_slice; ++i) {
      std::copy_n(block + i * p.k, k1 - k0, gradients[i]);
    }
    const float* a = one_slice ? block : gradients[0];
    const int64_t step = one_slice ? p.k : kOutputsPerSlice;
    for (int64_t r = r0; r < r1; ++r) {
      for (int64_t t = 0; t < p.s * p.c; t += kPanel) {
        for (int64_t i = 0; i < count; ++i) {
          const float* from = under[i] + r * at.source_w * p.c + t;
          store(inputs[i], load(from));
          store(inputs[i] + kVectorLanes<float>, load(from + kVectorLanes<float>));
        }
        for_each_row_group(k1 - k0, [&](auto outputs, int64_t k) {
          VecF acc[outputs][2] = {};
          multiply_add(acc, a + k, 1, step, inputs[0], kPanel, count);
          add_sums(p, acc, k0 + k, r, t, first == 0);
        });
      }
    }
  }
}

void sum_weights(const Conv2dParams& p, const Conv2dGeometry& at, int64_t begin, int64_t end) {
  const float* source = at.copies ? p.workspace + at.source : static_cast<const float*>(p.x);
  const float* dy =
      p.dtype == DType::kFloat32 ? static_cast<const float*>(p.y) : p.workspace + at.gradients;
  const int64_t parts = splits_kernel_rows(p) ? p.r : 1;  // slices of a group of outputs
  for (int64_t slice = begin, next; slice < end; slice = next) {
    // All rows of the kernel that are wanted of these outputs at once: they see the same pixels.
    const int64_t group = slice / parts, r0 = slice % parts;
    next = std::min(end, (group + 1) * parts);
    const int64_t r1 = parts == 1 ? p.r : r0 + next - slice;
    if (p.k <= kFewOutputs) {
      with_constant<kFewOutputs>(p.k, 0, [&](auto outputs, int64_t) {
        for (int64_t r = r0; r < r1; ++r) sum_narrow_weights<outputs>(p, at, source, dy, r);
      });
      continue;
    }
    const int64_t k0 = group * kOutputsPerSlice;
    sum_many_weights(p, at, source, dy, k0, std::min(k0 + kOutputsPerSlice, p.k), r0, r1);
  }
}

int64_t workspace_floats(const Conv2dParams& p, Conv2dPass pass) {
  return Conv2dGeometry(p, pass).total;
}

int64_t slices_of_phase(const Conv2dParams& p, Conv2dPass pass, int64_t phase) {
  const Conv2dGeometry at(p, pass);
  const bool sums_weights = pass == Conv2dPass::kWeightGradient;
  if (phase == 0) return at.copies ? p.n * at.source_h : 0;
  if (phase == 1 && !sums_weights) return ceil_div(at.in_c, kPanel);
  if (phase == 1) return at.u > at.gradients ? p.n * p.oh : 0;
  if (!sums_weights) return ceil_div(p.n * at.out_h, at.rows_per_slice());
  return ceil_div(p.k, kOutputsPerSlice) * (splits_kernel_rows(p) ? p.r : 1);
}

template <typename T>
void run_phase_on(const Conv2dParams& p, Conv2dPass pass, int64_t phase, int64_t begin,
                  int64_t end) {
  const Conv2dGeometry at(p, pass);
  if (phase == 0) return lay_out_source<T>(p, at, begin, end);
  if (pass == Conv2dPass::kWeightGradient) {
    if (phase == 2) return sum_weights(p, at, begin, end);
    const int64_t row = p.ow * p.k;
    return widen_row(static_cast<const T*>(p.y) + begin * row, (end - begin) * row,
                     p.workspace + at.gradients + begin * row);
  }
  if (phase == 1) return lay_out_weights(p, pass, at, begin, end);
  sum_pixels<T>(p, pass, at, begin, end);
}

void run_phase(const Conv2dParams& p, Conv2dPass pass, int64_t phase, int64_t begin, int64_t end) {
  p.dtype == DType::kBFloat16 ? run_phase_on<BFloat16>(p, pass, phase, begin, end)
                              : run_phase_on<float>(p, pass, phase, begin, end);
}
