// Focal attention on a CPU in float32, forward and backward.
//
// One window of one head at a time: its keys and values are gathered into the core's own
// cache; a few rows of logits stay in registers while they are summed; bias, mask,
// softmax and the product with the values follow while these rows are in the first-level
// cache. The backward pass computes the weights again. All levels are alike: a window
// sees a square of each level's map. The fine map wraps around, pooled maps end.
//
// Vectors are GCC's own, compiled for three instruction sets side by side; the one that
// ATen runs with is chosen when the operator is called.

#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

namespace {

using at::Tensor;

#define INLINE inline __attribute__((always_inline))
// Sums stay in registers only where these loops are unrolled whole.
#define UNROLL _Pragma("GCC unroll 16")

constexpr int64_t FILL = 16;       // keys and channels are filled up to a multiple
constexpr int64_t FILL_ROWS = 28;  // queries too: of the rows of every instruction set

int64_t filled(int64_t size, int64_t multiple) {
  return (size + multiple - 1) / multiple * multiple;
}

// ---- Sizes and maps ----------------------------------------------------------------

struct Level {
  int64_t height, width;  // of the map
  int64_t side, step;     // of a window's square; from one square to the next
  bool wraps;

  int64_t margin() const { return (side - step) / 2; }
  // Where a row or column of tokens is in the map, or -1.
  int64_t place(int64_t at, int64_t size) const {
    if (at >= 0 && at < size) return at;
    return wraps ? (at + size) % size : -1;
  }
};

struct Call {
  Tensor query, bias, mask;          // the latter two filled up
  std::vector<Tensor> keys, values;  // of each level
  std::vector<Level> levels;
  float scale;
  int64_t batch, heads, dims, dims_filled, window, rows, cols, queries, keys_filled;
  int64_t bands, band_rows;  // a task is a band of rows of windows of one head

  // Of a window and a query: one mask may be that of all.
  int64_t mask_row() const { return mask.size(1) == 1 ? 0 : mask.stride(1); }
  const float* mask_of(int64_t index, int64_t row) const {
    const int64_t window_step = mask.size(0) == 1 ? 0 : mask.stride(0);
    return mask.data_ptr<float>() + index * window_step + row * mask_row();
  }
  int64_t tasks() const { return batch * heads * bands; }
  int64_t key_floats() const { return keys_filled * dims_filled; }
  int64_t query_floats() const { return filled(queries, FILL_ROWS) * dims_filled; }
};

struct Task {
  int64_t image, head, first, last;  // rows of windows

  Task(const Call& c, int64_t index)
      : image(index / c.bands / c.heads),
        head(index / c.bands % c.heads),
        first(index % c.bands * c.band_rows),
        last(std::min(first + c.band_rows, c.rows)) {}
};

// One head of one image of a map (B, H, W, h, d).
struct Plane {
  float* data;
  int64_t row, col;

  Plane(const Tensor& map, const Task& task)
      : data(map.data_ptr<float>() + task.image * map.stride(0) + task.head * map.stride(3)),
        row(map.stride(1)),
        col(map.stride(2)) {}
  float* at(int64_t y, int64_t x) const { return data + y * row + x * col; }
};

// Zeros, aligned for the widest vectors.
class Buffer {
 public:
  explicit Buffer(int64_t floats)
      : data_(static_cast<float*>(std::aligned_alloc(64, filled(4 * floats, 64))), std::free) {
    if (!data_) throw std::bad_alloc();
    clear(floats);
  }
  void clear(int64_t floats) { std::fill_n(data_.get(), floats, 0.f); }
  operator float*() const { return data_.get(); }

 private:
  std::unique_ptr<float, decltype(&std::free)> data_;
};

// ---- Vectors -----------------------------------------------------------------------

template <int LANES>
struct Vector;
template <> struct Vector<4> { typedef float Floats __attribute__((vector_size(16))); };
template <> struct Vector<8> { typedef float Floats __attribute__((vector_size(32))); };
template <> struct Vector<16> { typedef float Floats __attribute__((vector_size(64))); };
template <int LANES>
using Floats = typename Vector<LANES>::Floats;
template <int LANES>
using Ints = decltype(Floats<LANES>{} > 0.f);

template <int LANES>
INLINE Floats<LANES> load(const float* from) {
  Floats<LANES> x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

template <typename V>
INLINE void store(float* to, V x) { std::memcpy(to, &x, sizeof x); }

INLINE float plus(float a, float b) { return a + b; }
INLINE float larger(float a, float b) { return a > b ? a : b; }

template <int LANES, typename Function>
INLINE float reduce(Floats<LANES> x, const Function& function) {
  float result = x[0];
  UNROLL for (int i = 1; i < LANES; ++i) result = function(result, x[i]);
  return result;
}

// For x <= 0, to 2e-7 (Cephes' polynomial); zero in place of denormal numbers, which
// processors are slow with.
template <int LANES>
INLINE Floats<LANES> exponential(Floats<LANES> x) {
  const auto seen = x > -87.f;
  x = seen ? x : Floats<LANES>{};
  const auto n = (x * 1.44269504f + 12582912.f) - 12582912.f;  // rounds
  const auto f = x - n * 0.693359375f + n * 2.12194440e-4f;
  auto p = f * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * (f * f) + f + 1.f;
  const auto power = (__builtin_convertvector(n, Ints<LANES>) + 127) << 23;
  return seen ? p * (Floats<LANES>)power : Floats<LANES>{};
}

// (rows, cols) to (cols, rows), multiples of LANES: interleaved log2(LANES) times.
template <int LANES>
INLINE void transpose(const float* from, float* to, int64_t rows, int64_t cols) {
  Ints<LANES> low, high;
  UNROLL for (int i = 0; i < LANES; ++i) low[i] = i / 2 + i % 2 * LANES;
  high = low + LANES / 2;
  for (int64_t y = 0; y < rows; y += LANES) {
    for (int64_t x = 0; x < cols; x += LANES) {
      Floats<LANES> a[LANES], b[LANES];
      UNROLL for (int i = 0; i < LANES; ++i) a[i] = load<LANES>(from + (y + i) * cols + x);
      UNROLL for (int times = 1; times < LANES; times *= 2) {
        UNROLL for (int i = 0; i < LANES / 2; ++i) {
          b[2 * i] = __builtin_shuffle(a[i], a[i + LANES / 2], low);
          b[2 * i + 1] = __builtin_shuffle(a[i], a[i + LANES / 2], high);
        }
        UNROLL for (int i = 0; i < LANES; ++i) a[i] = b[i];
      }
      UNROLL for (int i = 0; i < LANES; ++i) store(to + (x + i) * rows + y, a[i]);
    }
  }
}

// ---- Products of a few rows --------------------------------------------------------

// Runs `step` for all columns, three vectors at a time where as many are left.
#define FOR_COLUMNS(columns, step)                               \
  do {                                                           \
    int64_t j = 0;                                               \
    for (; j + 3 * LANES <= columns; j += 3 * LANES) step(3, j); \
    for (; j < columns; j += LANES) step(1, j);                  \
  } while (0)

// a (ROWS, dims) against V vectors of columns of b (dims, columns).
template <int LANES, int ROWS, int V>
INLINE void dot(const float* a, const float* b, const Call& c, Floats<LANES> (&sums)[ROWS][V]) {
  for (int64_t d = 0; d < c.dims; ++d) {
    UNROLL for (int v = 0; v < V; ++v) {
      const auto right = load<LANES>(b + d * c.keys_filled + v * LANES);
      UNROLL for (int i = 0; i < ROWS; ++i) sums[i][v] += a[i * c.dims_filled + d] * right;
    }
  }
}

// Some columns of the logits, and the largest of each row so far.
template <int LANES, int ROWS, int V>
INLINE void logits(const float* query, const float* keys_t, const float* bias,
                   const float* mask, int64_t mask_row, const Call& c, float* to,
                   Floats<LANES> (&most)[ROWS]) {
  Floats<LANES> sums[ROWS][V] = {};
  dot<LANES, ROWS, V>(query, keys_t, c, sums);
  UNROLL for (int i = 0; i < ROWS; ++i) {
    UNROLL for (int v = 0; v < V; ++v) {
      auto x = sums[i][v] + load<LANES>(bias + i * c.keys_filled + v * LANES);
      x += load<LANES>(mask + i * mask_row + v * LANES);
      most[i] = most[i] > x ? most[i] : x;
      store(to + i * c.keys_filled + v * LANES, x);
    }
  }
}

// The softmax of the logits but for a factor of each row, which is returned.
template <int LANES, int ROWS>
INLINE void weigh(const float* query, const float* keys_t, const float* bias,
                  const float* mask, int64_t mask_row, const Call& c, float* weights,
                  float (&factors)[ROWS]) {
  Floats<LANES> most[ROWS];
  UNROLL for (int i = 0; i < ROWS; ++i) most[i] = Floats<LANES>{} - 1e30f;
#define STEP(V, j)                                                           \
  logits<LANES, ROWS, V>(query, keys_t + j, bias + j, mask + j, mask_row, c, \
                         weights + j, most)
  FOR_COLUMNS(c.keys_filled, STEP);
#undef STEP
  UNROLL for (int i = 0; i < ROWS; ++i) {
    const float top = reduce<LANES>(most[i], larger);
    Floats<LANES> total = {};
    float* row = weights + i * c.keys_filled;
    for (int64_t j = 0; j < c.keys_filled; j += LANES) {
      const auto x = exponential<LANES>(load<LANES>(row + j) - top);
      total += x;
      store(row + j, x);
    }
    factors[i] = 1.f / reduce<LANES>(total, plus);
  }
}

// Some columns of the weights' gradients; the weights get their factors, and their
// products with the gradients are summed.
template <int LANES, int ROWS, int V>
INLINE void weight_gradients(const float* gradient, const float* values_t, const Call& c,
                             const float (&factors)[ROWS], float* weights, float* to,
                             Floats<LANES> (&products)[ROWS]) {
  Floats<LANES> sums[ROWS][V] = {};
  dot<LANES, ROWS, V>(gradient, values_t, c, sums);
  UNROLL for (int i = 0; i < ROWS; ++i) {
    UNROLL for (int v = 0; v < V; ++v) {
      const int64_t at = i * c.keys_filled + v * LANES;
      const auto weight = load<LANES>(weights + at) * factors[i];
      products[i] += weight * sums[i][v];
      store(weights + at, weight);
      store(to + at, sums[i][v]);
    }
  }
}

// to (ROWS, dims) = a (ROWS, keys) b (keys, dims), V vectors of channels.
template <int LANES, int ROWS, int V>
INLINE void multiply(const float* a, const float* b, const Call& c, float* to) {
  Floats<LANES> sums[ROWS][V] = {};
  for (int64_t j = 0; j < c.keys_filled; ++j) {
    UNROLL for (int v = 0; v < V; ++v) {
      const auto right = load<LANES>(b + j * c.dims_filled + v * LANES);
      UNROLL for (int i = 0; i < ROWS; ++i) sums[i][v] += a[i * c.keys_filled + j] * right;
    }
  }
  UNROLL for (int i = 0; i < ROWS; ++i) {
    UNROLL for (int v = 0; v < V; ++v) store(to + i * c.dims_filled + v * LANES, sums[i][v]);
  }
}

// to (keys, dims) += aᵀ b, with a (ROWS, keys) and b (ROWS, dims), V vectors of channels.
template <int LANES, int ROWS, int V>
INLINE void add_product(const float* a, const float* b, const Call& c, float* to) {
  Floats<LANES> right[ROWS][V];
  UNROLL for (int i = 0; i < ROWS; ++i) {
    UNROLL for (int v = 0; v < V; ++v) right[i][v] = load<LANES>(b + i * c.dims_filled + v * LANES);
  }
  for (int64_t j = 0; j < c.keys_filled; ++j) {
    UNROLL for (int v = 0; v < V; ++v) {
      float* at = to + j * c.dims_filled + v * LANES;
      auto x = load<LANES>(at);
      UNROLL for (int i = 0; i < ROWS; ++i) x += a[i * c.keys_filled + j] * right[i][v];
      store(at, x);
    }
  }
}

#define FOR_CHANNELS(product, a, b, c, to)                                         \
  do {                                                                             \
    int64_t d = 0;                                                                 \
    for (; d + 2 * LANES <= c.dims_filled; d += 2 * LANES)                         \
      product<LANES, ROWS, 2>(a, (b) + d, c, (to) + d);                            \
    if (d < c.dims_filled) product<LANES, ROWS, 1>(a, (b) + d, c, (to) + d);       \
  } while (0)

// ---- Between maps and windows ------------------------------------------------------

// A window's tokens, (s², dims filled up).
INLINE void load_window(float* to, const Plane& map, const Call& c, int64_t row, int64_t col,
                        float factor) {
  for (int64_t y = row * c.window; y < (row + 1) * c.window; ++y) {
    for (int64_t x = col * c.window; x < (col + 1) * c.window; ++x, to += c.dims_filled) {
      const float* from = map.at(y, x);
      for (int64_t d = 0; d < c.dims; ++d) to[d] = from[d] * factor;
    }
  }
}

// Some of a window's tokens, from (rows, dims filled up).
INLINE void store_queries(const Plane& map, const Call& c, int64_t row, int64_t col,
                          int64_t first, int64_t count, const float* from,
                          const float* factors) {
  for (int64_t i = first; i < std::min(first + count, c.queries); ++i, from += c.dims_filled) {
    float* to = map.at(row * c.window + i / c.window, col * c.window + i % c.window);
    const float factor = *factors++;
    for (int64_t d = 0; d < c.dims; ++d) to[d] = from[d] * factor;
  }
}

// A window's keys, or values, of all levels: (keys, dims filled up); zeros outside.
INLINE void load_keys(float* to, const std::vector<Plane>& maps, const Call& c, int64_t row,
                      int64_t col) {
  for (size_t n = 0; n < maps.size(); ++n) {
    const Level& level = c.levels[n];
    for (int64_t i = 0; i < level.side; ++i) {
      const int64_t y = level.place(row * level.step - level.margin() + i, level.height);
      for (int64_t j = 0; j < level.side; ++j, to += c.dims_filled) {
        const int64_t x = level.place(col * level.step - level.margin() + j, level.width);
        if (y < 0 || x < 0)
          std::fill_n(to, c.dims, 0.f);
        else
          std::copy_n(maps[n].at(y, x), c.dims, to);
      }
    }
  }
}

// Per level (tasks, 2, rows, cols, dims filled up): sums of the gradients of keys and of
// values, with all that the task's windows see around the map.
using Strips = std::vector<Tensor>;

INLINE void add_squares(const float* from, const Strips& strips, const Call& c,
                        const Task& task, int64_t index, int64_t which, int64_t row,
                        int64_t col) {
  for (size_t n = 0; n < strips.size(); ++n) {
    const Level& level = c.levels[n];
    const int64_t width = strips[n].stride(2), length = level.side * c.dims_filled;
    float* to = strips[n].data_ptr<float>() + index * strips[n].stride(0) +
                which * strips[n].stride(1) + (row - task.first) * level.step * width +
                col * level.step * c.dims_filled;
    for (int64_t i = 0; i < level.side; ++i, to += width, from += length)
      for (int64_t j = 0; j < length; ++j) to[j] += from[j];
  }
}

// Sum the strips of one head of one image into its map: (2, B, H, W, h, d).
void add_strips(const Tensor& strips, const Call& c, const Level& level, const Tensor& maps,
                int64_t image_and_head) {
  for (int64_t band = 0; band < c.bands; ++band) {
    const int64_t index = image_and_head * c.bands + band;
    const Task task(c, index);
    const float* from = strips.data_ptr<float>() + index * strips.stride(0);
    for (int64_t which = 0; which < 2; ++which) {
      const Plane map(maps[which], task);
      for (int64_t i = 0; i < strips.size(2); ++i) {
        const int64_t y = level.place(task.first * level.step - level.margin() + i, level.height);
        for (int64_t j = 0; j < strips.size(3); ++j, from += c.dims_filled) {
          const int64_t x = level.place(j - level.margin(), level.width);
          if (y < 0 || x < 0) continue;
          float* to = map.at(y, x);
          for (int64_t d = 0; d < c.dims; ++d) to[d] += from[d];
        }
      }
    }
  }
}

// ---- Tasks -------------------------------------------------------------------------

std::vector<Plane> planes(const std::vector<Tensor>& maps, const Task& task) {
  std::vector<Plane> found;
  for (const Tensor& map : maps) found.emplace_back(map, task);
  return found;
}

template <int LANES, int ROWS>
INLINE void run_forward(const Call& c, const Tensor& output, int64_t index) {
  const Task task(c, index);
  const Buffer query(c.query_floats()), key(c.key_floats()), keys_t(c.key_floats());
  const Buffer value(c.key_floats()), weights(ROWS * c.keys_filled), sums(ROWS * c.dims_filled);
  const Plane queries(c.query, task), outputs(output, task);
  const auto keys = planes(c.keys, task), values = planes(c.values, task);
  const float* bias = c.bias.data_ptr<float>() + task.head * c.bias.stride(0);
  for (int64_t row = task.first; row < task.last; ++row) {
    for (int64_t col = 0; col < c.cols; ++col) {
      load_window(query, queries, c, row, col, c.scale);
      load_keys(key, keys, c, row, col);
      load_keys(value, values, c, row, col);
      transpose<LANES>(key, keys_t, c.keys_filled, c.dims_filled);
      for (int64_t i = 0; i < c.queries; i += ROWS) {
        float factors[ROWS];
        weigh<LANES, ROWS>(query + i * c.dims_filled, keys_t, bias + i * c.keys_filled,
                           c.mask_of(row * c.cols + col, i), c.mask_row(), c, weights, factors);
        FOR_CHANNELS(multiply, weights, value, c, sums);
        store_queries(outputs, c, row, col, i, ROWS, sums, factors);
      }
    }
  }
}

template <int LANES, int ROWS>
INLINE void run_backward(const Call& c, const Tensor& gradient, const Tensor& grad_query,
                         const Tensor& grad_bias, const Strips& strips, int64_t index) {
  const Task task(c, index);
  const Buffer query(c.query_floats()), grads(c.query_floats());
  const Buffer key(c.key_floats()), keys_t(c.key_floats());
  const Buffer value(c.key_floats()), values_t(c.key_floats());
  Buffer grad_key(c.key_floats()), grad_value(c.key_floats());
  const Buffer weights(ROWS * c.keys_filled), grad_logits(ROWS * c.keys_filled);
  const Buffer sums(ROWS * c.dims_filled);
  const Plane queries(c.query, task), gradients(gradient, task), grad_queries(grad_query, task);
  const auto keys = planes(c.keys, task), values = planes(c.values, task);
  const float* bias = c.bias.data_ptr<float>() + task.head * c.bias.stride(0);
  float* bias_sums = grad_bias.data_ptr<float>() + index * grad_bias.stride(0);
  float factors[ROWS], scales[ROWS];
  std::fill_n(scales, ROWS, c.scale);
  for (int64_t row = task.first; row < task.last; ++row) {
    for (int64_t col = 0; col < c.cols; ++col) {
      load_window(query, queries, c, row, col, c.scale);
      load_window(grads, gradients, c, row, col, 1.f);
      load_keys(key, keys, c, row, col);
      load_keys(value, values, c, row, col);
      transpose<LANES>(key, keys_t, c.keys_filled, c.dims_filled);
      transpose<LANES>(value, values_t, c.keys_filled, c.dims_filled);
      grad_key.clear(c.key_floats());
      grad_value.clear(c.key_floats());
      for (int64_t i = 0; i < c.queries; i += ROWS) {
        const float *q = query + i * c.dims_filled, *g = grads + i * c.dims_filled;
        weigh<LANES, ROWS>(q, keys_t, bias + i * c.keys_filled,
                           c.mask_of(row * c.cols + col, i), c.mask_row(), c, weights, factors);
        Floats<LANES> products[ROWS] = {};
#define STEP(V, j)                                                                    \
  weight_gradients<LANES, ROWS, V>(g, values_t + j, c, factors, weights + j,          \
                                   grad_logits + j, products)
        FOR_COLUMNS(c.keys_filled, STEP);
#undef STEP
        UNROLL for (int n = 0; n < ROWS; ++n) {
          const float mean = reduce<LANES>(products[n], plus);
          const int64_t start = n * c.keys_filled, end = start + c.keys_filled;
          float* bias_sum = bias_sums + i * c.keys_filled;
          for (int64_t j = start; j < end; j += LANES) {
            const auto weight = load<LANES>(weights + j);
            const auto x = weight * (load<LANES>(grad_logits + j) - mean);
            store(grad_logits + j, x);
            store(bias_sum + j, load<LANES>(bias_sum + j) + x);
          }
        }
        FOR_CHANNELS(add_product, weights, g, c, grad_value);
        FOR_CHANNELS(add_product, grad_logits, q, c, grad_key);
        FOR_CHANNELS(multiply, grad_logits, key, c, sums);
        store_queries(grad_queries, c, row, col, i, ROWS, sums, scales);
      }
      add_squares(grad_key, strips, c, task, index, 0, row, col);
      add_squares(grad_value, strips, c, task, index, 1, row, col);
    }
  }
}

// ---- Instruction sets --------------------------------------------------------------

#if defined(__x86_64__)
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#define AVX2 __attribute__((target("avx2,fma")))
#else
#define AVX512
#define AVX2
#endif

// A function for each set, into which all of the above is compiled: vectors of so many
// floats, and so many rows that their sums fit the registers.
#define FOR_EACH_SET(run, PARAMETERS, ARGUMENTS)                 \
  AVX512 void run##_avx512 PARAMETERS { run<16, 7> ARGUMENTS; }  \
  AVX2 void run##_avx2 PARAMETERS { run<8, 4> ARGUMENTS; }       \
  void run##_default PARAMETERS { run<4, 4> ARGUMENTS; }         \
  auto run##_here() {                                            \
    const std::string set = at::get_cpu_capability();            \
    return set == "AVX512" ? run##_avx512                        \
           : set == "AVX2" ? run##_avx2                          \
                           : run##_default;                      \
  }

FOR_EACH_SET(run_forward, (const Call& c, const Tensor& output, int64_t index),
             (c, output, index))
FOR_EACH_SET(run_backward,
             (const Call& c, const Tensor& gradient, const Tensor& grad_query,
              const Tensor& grad_bias, const Strips& strips, int64_t index),
             (c, gradient, grad_query, grad_bias, strips, index))

// ---- Operators ---------------------------------------------------------------------

Tensor contiguous_rows(const Tensor& map) {
  return map.stride(-1) == 1 ? map : map.contiguous();
}

// (n, rows, keys) to (n, rows filled up, keys filled up).
Tensor fill_up(const Tensor& x, int64_t rows, int64_t keys, double value) {
  const auto wide = at::constant_pad_nd(x, {0, keys - x.size(2)}, value);
  return at::constant_pad_nd(wide, {0, 0, 0, rows - x.size(1)}).contiguous();
}

Call call_of(const Tensor& query, at::TensorList keys, at::TensorList values,
             const Tensor& bias, const std::optional<Tensor>& mask, double scale,
             int64_t window, at::IntArrayRef sides, at::IntArrayRef steps, int64_t tasks) {
  Call c;
  for (size_t n = 0; n < keys.size(); ++n) {
    c.levels.push_back({keys[n].size(1), keys[n].size(2), sides[n], steps[n], n == 0});
    c.keys.push_back(contiguous_rows(keys[n]));
    c.values.push_back(contiguous_rows(values[n]));
  }
  c.query = contiguous_rows(query);
  c.scale = static_cast<float>(scale);
  c.batch = query.size(0), c.heads = query.size(3), c.dims = query.size(4);
  c.window = window, c.queries = window * window;
  c.rows = query.size(1) / window, c.cols = query.size(2) / window;
  c.dims_filled = filled(c.dims, FILL), c.keys_filled = filled(bias.size(2), FILL);
  const int64_t rows = filled(c.queries, FILL_ROWS);
  c.bias = fill_up(bias, rows, c.keys_filled, -1e30);
  c.mask = mask ? fill_up(*mask, mask->size(1) == 1 ? 1 : rows, c.keys_filled, 0)
                : at::zeros({1, 1, c.keys_filled}, bias.options());
  c.band_rows = std::clamp<int64_t>(c.rows * c.batch * c.heads / tasks, 1, c.rows);
  c.bands = (c.rows + c.band_rows - 1) / c.band_rows;
  return c;
}

template <typename Function>
void for_each(int64_t count, const Function& run) {
  at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
    for (int64_t index = first; index < last; ++index) run(index);
  });
}

Tensor forward(const Tensor& query, at::TensorList keys, at::TensorList values,
               const Tensor& bias, const std::optional<Tensor>& mask, double scale,
               int64_t window, at::IntArrayRef sides, at::IntArrayRef steps) {
  // Each row of windows is a task, so that threads end at about the same time.
  const int64_t most = std::numeric_limits<int64_t>::max();
  const Call c = call_of(query, keys, values, bias, mask, scale, window, sides, steps, most);
  const Tensor output = at::empty(query.sizes(), query.options());
  const auto run = run_forward_here();
  for_each(c.tasks(), [&](int64_t index) { run(c, output, index); });
  return output;
}

std::tuple<Tensor, Tensor, std::vector<Tensor>> backward(
    const Tensor& gradient, const Tensor& query, at::TensorList keys, at::TensorList values,
    const Tensor& bias, const std::optional<Tensor>& mask, double scale, int64_t window,
    at::IntArrayRef sides, at::IntArrayRef steps) {
  // Fewer: the strips of neighbouring tasks overlap.
  const int64_t tasks = 4 * at::get_num_threads();
  const Call c = call_of(query, keys, values, bias, mask, scale, window, sides, steps, tasks);
  const Tensor grad_output = contiguous_rows(gradient);
  const Tensor grad_query = at::empty(query.sizes(), query.options());
  const Tensor grad_bias = at::zeros({c.tasks(), c.bias.size(1), c.keys_filled}, query.options());
  std::vector<Tensor> strips, maps;
  for (size_t n = 0; n < keys.size(); ++n) {
    const Level& level = c.levels[n];
    strips.push_back(at::zeros({c.tasks(), 2, (c.band_rows - 1) * level.step + level.side,
                                (c.cols - 1) * level.step + level.side, c.dims_filled},
                               query.options()));
    auto shape = keys[n].sizes().vec();
    shape.insert(shape.begin(), 2);
    maps.push_back(at::zeros(shape, query.options()));
  }
  const auto run = run_backward_here();
  for_each(c.tasks(), [&](int64_t index) {
    run(c, grad_output, grad_query, grad_bias, strips, index);
  });
  for_each(c.batch * c.heads, [&](int64_t index) {
    for (size_t n = 0; n < maps.size(); ++n)
      add_strips(strips[n], c, c.levels[n], maps[n], index);
  });
  const Tensor bias_sums =
      grad_bias.view({c.batch, c.heads, c.bands, -1, c.keys_filled}).sum(at::IntArrayRef{0, 2});
  return {grad_query, bias_sums.slice(1, 0, bias.size(1)).slice(2, 0, bias.size(2)), maps};
}

}  // namespace

// Float32 on a CPU. query (B, H, W, h, d); keys, values per level (B, Hk, Wk, h, d), the
// fine one first; bias (h, s², keys); mask (windows, 1 or s², keys); sides and steps of a
// window's squares in tokens of each level. The gradients of keys and values come
// together, (2, B, Hk, Wk, h, d).
TORCH_LIBRARY(focal_mm_cpu, library) {
  const std::string inputs =
      "Tensor query, Tensor[] keys, Tensor[] values, Tensor bias, Tensor? mask, "
      "float scale, int window, int[] sides, int[] steps";
  library.def(("forward(" + inputs + ") -> Tensor").c_str());
  library.def(("backward(Tensor gradient, " + inputs + ") -> (Tensor, Tensor, Tensor[])").c_str());
}

TORCH_LIBRARY_IMPL(focal_mm_cpu, CPU, library) {
  library.impl("forward", forward);
  library.impl("backward", backward);
}
