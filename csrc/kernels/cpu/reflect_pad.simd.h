// The CPU kernels of reflect_pad. Included through cpu/for_each_isa.h.

// from [count] -> to [count]
template <typename From, typename To>
void convert(const From* from, To* to, int64_t count) {
  for (int64_t i = 0; i < count; i += kVectorLanes<From>) {
    const int64_t lanes = std::min<int64_t>(kVectorLanes<From>, count - i);
    store(to + i, load(from + i, lanes), lanes);
  }
}
template <typename T>
void convert(const T* from, T* to, int64_t count) {
  std::memcpy(to, from, static_cast<size_t>(count) * sizeof(T));
}

// Row `slice` of y: the middle from x, then the border from the middle.
template <typename From, typename To>
void pad_row(const ReflectPadParams& p, int64_t slice) {
  const int64_t i = slice % p.padded_height(), plane = slice / p.padded_height();
  const int member = p.x.member_of(plane / p.planes);
  const int64_t own_plane = plane - p.x.first[member] * p.planes;
  const From* x = static_cast<const From*>(p.x.data[member]) +
                  (own_plane * p.height + reflect(i, p.height, p.pad)) * p.row();
  To* y = static_cast<To*>(p.y) + slice * p.padded_row();
  convert(x, y + p.pad * p.inner, p.row());
  const size_t pixel = static_cast<size_t>(p.inner) * sizeof(To);
  for (int64_t j = 0; j < p.pad; ++j) {
    const int64_t right = p.pad + p.width + j;
    std::memcpy(y + j * p.inner, y + (2 * p.pad - j) * p.inner, pixel);
    std::memcpy(y + right * p.inner, y + (2 * (p.pad + p.width - 1) - right) * p.inner, pixel);
  }
}

// sums [count] += values [count]
template <typename T>
void add(const T* values, Compute<T>* sums, int64_t count) {
  int64_t i = 0;
  for (; i + kVectorLanes<T> <= count; i += kVectorLanes<T>)
    store(sums + i, load(sums + i) + load(values + i));
  for (; i < count; ++i) sums[i] += Compute<T>(widen(values[i]));
}

// sums [width, inner] = a row of grad_y without its borders, plus these, mirrored: first the right
// one, then the left one.
template <typename T>
void fold_row(const ReflectPadParams& p, const T* row, Compute<T>* sums) {
  convert(row + p.pad * p.inner, sums, p.row());
  for (int64_t j = p.width - 1 - p.pad; j <= p.width - 2; ++j)
    add(row + mirror(2, j, p.width, p.pad) * p.inner, sums + j * p.inner, p.inner);
  for (int64_t j = 1; j <= p.pad; ++j)
    add(row + mirror(1, j, p.width, p.pad) * p.inner, sums + j * p.inner, p.inner);
}

// Row `slice` of grad_x: the rows of grad_y that show it, added up: the middle one, that of the
// lower border, that of the upper. `sums` has room for two rows.
template <typename From, typename To>
void gather_row(const ReflectPadParams& p, Compute<To>* sums, int64_t slice) {
  const int64_t i = slice % p.height, plane = slice / p.height;
  const int member = p.grad_x.member_of(plane / p.planes);
  if (p.grad_x.data[member] == nullptr) return;
  const int64_t own_plane = plane - p.grad_x.first[member] * p.planes;
  From* grad_x = static_cast<From*>(p.grad_x.data[member]) + (own_plane * p.height + i) * p.row();
  const To* grad = static_cast<const To*>(p.grad_y) + plane * p.padded_height() * p.padded_row();
  fold_row(p, grad + (p.pad + i) * p.padded_row(), sums);
  for (int k : {2, 1}) {
    const int64_t row = mirror(k, i, p.height, p.pad);
    if (row < 0) continue;
    fold_row(p, grad + row * p.padded_row(), sums + p.row());
    add(sums + p.row(), sums, p.row());
  }
  convert(sums, grad_x, p.row());
}

inline void run_forward(const ReflectPadParams& p, int64_t begin, int64_t end) {
  dispatch_pair(p.from, p.into, [&](auto from, auto into) {
    for (int64_t s = begin; s < end; ++s) pad_row<decltype(from), decltype(into)>(p, s);
  });
}

inline void run_backward(const ReflectPadParams& p, double* sums, int64_t begin, int64_t end) {
  dispatch_pair(p.from, p.into, [&](auto from, auto into) {
    using From = decltype(from);
    using To = decltype(into);
    auto* own = reinterpret_cast<Compute<To>*>(sums);
    for (int64_t s = begin; s < end; ++s) gather_row<From, To>(p, own, s);
  });
}
