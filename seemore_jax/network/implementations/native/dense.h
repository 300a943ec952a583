// Linear maps of the channels, applied to lines of pixels, and the gradients of their weights.
#pragma once

#include <vector>

#include "rows.h"

namespace seemore {

// A tile of kTile outputs and kSpan vectors of pixels is computed at once: as much as the registers hold.
inline constexpr int kTile = 6;
inline constexpr int kSpan = kLanes == 8 ? 2 : 4;

// Linear map with bias. The weights are stored in the order in which `apply` reads them; zeros fill the last tile.
class Linear {
 public:
  // Makes the map from functions weight(input, output) and bias(output).
  template <class Weight, class Bias>
  Linear(int inputs, int outputs, Weight&& weight, Bias&& bias) : inputs_(inputs), outputs_(outputs) {
    int tiles = (outputs + kTile - 1) / kTile;
    weights_.assign(static_cast<size_t>(tiles) * inputs * kTile, 0.0f);
    bias_.assign(static_cast<size_t>(tiles) * kTile, 0.0f);
    for (int o = 0; o < outputs; ++o) {
      bias_[o] = bias(o);
      float* column = weights_.data() + static_cast<size_t>(o / kTile) * inputs * kTile + o % kTile;
      for (int i = 0; i < inputs; ++i) column[static_cast<size_t>(i) * kTile] = weight(i, o);
    }
  }
  // Makes the map from a row-major matrix (inputs, outputs) and a bias (outputs).
  Linear(int inputs, int outputs, const float* weights, const float* bias)
      : Linear(
            inputs, outputs, [=](int i, int o) { return weights[i * outputs + o]; }, [=](int o) { return bias[o]; }) {}
  // Makes the transposed map without bias, which maps a gradient with respect to the outputs to one with respect to the
  // inputs. `weights` is the matrix (inputs, outputs) of the original map.
  static Linear transposed(int inputs, int outputs, const float* weights) {
    return Linear(outputs, inputs, [=](int o, int i) { return weights[i * outputs + o]; }, [](int) { return 0.0f; });
  }

  // Calls emit(output, column, vector) for each output and each vector of the `pitch` columns, a multiple of kLanes.
  // `lines` has, for each input, a pointer to `pitch` floats.
  template <class Emit>
  void apply(const float* const* lines, int pitch, Emit&& emit) const {
    int w = 0;
    for (; w + kSpan * kLanes <= pitch; w += kSpan * kLanes) tiles<kSpan>(lines, w, emit);
    for (; w < pitch; w += kLanes) tiles<1>(lines, w, emit);
  }
  // Applies the map to lines that are `stride` floats apart.
  template <class Emit>
  void apply(const float* first_line, ptrdiff_t stride, int pitch, Emit&& emit) const {
    std::vector<const float*> lines(inputs_);
    for (int i = 0; i < inputs_; ++i) lines[i] = first_line + i * stride;
    apply(lines.data(), pitch, emit);
  }

 private:
  template <int span, class Emit>
  void tiles(const float* const* lines, int w, Emit&& emit) const {
    for (int o = 0; o < outputs_; o += kTile) tile<span>(lines, w, o, emit);
  }
  template <int span, class Emit>
  void tile(const float* const* lines, int w, int first, Emit&& emit) const {
    Vec sums[kTile][span];
#pragma GCC unroll 8
    for (int o = 0; o < kTile; ++o)
#pragma GCC unroll 8
      for (int j = 0; j < span; ++j) sums[o][j] = splat(bias_[first + o]);
    const float* weights = weights_.data() + static_cast<size_t>(first) * inputs_;
    for (int i = 0; i < inputs_; ++i, weights += kTile) {
      Vec x[span];
#pragma GCC unroll 8
      for (int j = 0; j < span; ++j) x[j] = load(lines[i] + w + j * kLanes);
#pragma GCC unroll 8
      for (int o = 0; o < kTile; ++o) {
        Vec weight = splat(weights[o]);
#pragma GCC unroll 8
        for (int j = 0; j < span; ++j) sums[o][j] += weight * x[j];
      }
    }
    // The calls of `emit` are not unrolled, because they are long code.
    Vec results[kTile * span];
#pragma GCC unroll 8
    for (int o = 0; o < kTile; ++o)
#pragma GCC unroll 8
      for (int j = 0; j < span; ++j) results[o * span + j] = sums[o][j];
    int outputs = std::min(kTile, outputs_ - first);
#pragma GCC unroll 1
    for (int o = 0; o < outputs; ++o)
#pragma GCC unroll 1
      for (int j = 0; j < span; ++j) emit(first + o, w + j * kLanes, results[o * span + j]);
  }

  int inputs_, outputs_;
  std::vector<float> weights_, bias_;
};

// Computes one tile of `add_weight_gradient`, which begins at input i0 < inputs and output o0 < outputs.
template <int across>
inline void add_products(const RowView& a, int i0, int inputs, const RowView& b, int o0, int outputs, int rows,
                         int pitch, float* gradient, int gradient_stride) {
  constexpr int down = 4;
  Vec sums[down][across] = {};
  for (int r = 0; r < rows; ++r) {
    const float* x[down];
    const float* y[across];
    for (int i = 0; i < down; ++i) x[i] = a.data + r * a.row_stride + std::min(i0 + i, inputs - 1) * a.stride;
    for (int o = 0; o < across; ++o) y[o] = b.data + r * b.row_stride + std::min(o0 + o, outputs - 1) * b.stride;
    for (int w = 0; w < pitch; w += kLanes) {
      Vec column[down];
#pragma GCC unroll 8
      for (int i = 0; i < down; ++i) column[i] = load(x[i] + w);
#pragma GCC unroll 8
      for (int o = 0; o < across; ++o) {
        Vec value = load(y[o] + w);
#pragma GCC unroll 8
        for (int i = 0; i < down; ++i) sums[i][o] += column[i] * value;
      }
    }
  }
  for (int i = 0; i < std::min(down, inputs - i0); ++i)
    for (int o = 0; o < std::min(across, outputs - o0); ++o)
      gradient[(i0 + i) * gradient_stride + o0 + o] += sum(sums[i][o]);
}

// Adds to gradient[i][o] the sum over rows and columns of a[i] * b[o]. This is the gradient of the weights of a linear
// map, where `a` is its input and `b` the gradient with respect to its output. Here and below, lines have `pitch`
// floats, a multiple of kLanes.
inline void add_weight_gradient(const RowView& a, int inputs, const RowView& b, int outputs, int rows, int pitch,
                                float* gradient, int gradient_stride) {
  constexpr int across = kLanes == 8 ? 2 : 6;
  for (int i = 0; i < inputs; i += 4)
    for (int o = 0; o < outputs; o += across)
      add_products<across>(a, i, inputs, b, o, outputs, rows, pitch, gradient, gradient_stride);
}

// Adds to gradient[o] the sum over rows and columns of b[o].
inline void add_bias_gradient(const RowView& b, int outputs, int rows, int pitch, float* gradient) {
  for (int o = 0; o < outputs; ++o) {
    Vec total{};
    for (int r = 0; r < rows; ++r)
      for (int w = 0; w < pitch; w += kLanes) total += load(b.data + r * b.row_stride + o * b.stride + w);
    gradient[o] += sum(total);
  }
}

// Returns the sum over rows and columns of a * b: the gradient of one tap of a depthwise filter.
inline float correlation(const float* a, ptrdiff_t a_row, const float* b, ptrdiff_t b_row, int rows, int pitch) {
  Vec total{};
  for (int r = 0; r < rows; ++r)
    for (int w = 0; w < pitch; w += kLanes) total += load(a + r * a_row + w) * load(b + r * b_row + w);
  return sum(total);
}

// Computes one row of the gradient with respect to x of x + f(linear(normalize(x))). `gradient` is the gradient with
// respect to the sum, `linear_gradient` with respect to the output of the linear map, `transposed` the transposed map.
// `normalized_gradient` is a buffer of one row.
inline void store_residual_gradient(const Shape& shape, int image, int row, const Linear& transposed,
                                    RowBuffer& linear_gradient, RowBuffer& normalized, RowBuffer& inverse,
                                    RowBuffer& normalized_gradient, const float* gradient, float* x_gradient) {
  transposed.apply(linear_gradient.line(row, 0), linear_gradient.stride(), shape.pitch,
                   [&](int c, int w, Vec v) { store(normalized_gradient.line(0, c) + w, v); });
  size_t line = shape.line(image, row, 0);
  normalize_backward(normalized_gradient.line(0, 0), normalized_gradient.stride(), normalized.line(row, 0),
                     normalized.stride(), inverse.line(row, 0), shape.channels, shape.pitch, [&](int c, int w, Vec v) {
                       size_t at = line + c * shape.pitch + w;
                       store(x_gradient + at, load(gradient + at) + v);
                     });
}

}  // namespace seemore
