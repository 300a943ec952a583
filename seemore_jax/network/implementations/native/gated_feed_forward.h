// Gated feed-forward, the last part of the rank modulating and of the spatial modulating expert (paper, 3.2 and 3.4).
#pragma once

#include "dense.h"

namespace seemore {

// x + GELU(project(values * depthwise3(gate))), where values and gate are the halves of GELU(expand(normalize(x))).
struct GatedFeedForward {
  Shape shape;
  const float *taps, *taps_bias;  // (3, 3, C), (C)
  Linear expand_map, project_map, expand_transposed, project_transposed;

  // `expand` is (C, 2C), `project` (C, C).
  GatedFeedForward(Shape shape, const float* expand, const float* expand_bias, const float* taps,
                   const float* taps_bias, const float* project, const float* project_bias)
      : shape(shape), taps(taps), taps_bias(taps_bias),
        expand_map(shape.channels, 2 * shape.channels, expand, expand_bias),
        project_map(shape.channels, shape.channels, project, project_bias),
        expand_transposed(Linear::transposed(shape.channels, 2 * shape.channels, expand)),
        project_transposed(Linear::transposed(shape.channels, shape.channels, project)) {}

  // Applies depthwise3, without bias, to one channel at the columns w, ..., w + kLanes - 1. `flipped` applies its
  // transpose. The lines have one more float on each side.
  Vec filter(const float* above, const float* here, const float* below, int channel, int w, bool flipped) const {
    const float* lines[3] = {above, here, below};
    Vec total{};
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j) {
        int tap = flipped ? 8 - (3 * i + j) : 3 * i + j;
        total += taps[tap * shape.channels + channel] * load(lines[i] + w + j - 1);
      }
    return total;
  }

  // Computes the rows of a strip of the output.
  void forward(const Strip& strip, const float* x, float* out) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch;
    RowBuffer normalized(scratch, 0, 1, channels, pitch);
    RowBuffer values(scratch, strip.begin - 1, 2, channels, pitch), gate(scratch, strip.begin - 1, 3, channels, pitch);
    RowBuffer product(scratch, 0, 1, channels, pitch);
    for (int row = strip.begin - 1; row <= strip.end; ++row) {
      if (shape.has(row)) {
        normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(0, 0), normalized.stride(),
                  nullptr);
        float *to_values = values.line(row, 0), *to_gate = gate.line(row, 0);
        expand_map.apply(normalized.line(0, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
          float* to = o < channels ? to_values + o * values.stride() : to_gate + (o - channels) * gate.stride();
          store(to + w, gelu(v));
        });
        gate.clear_from(row, shape.width);
      } else {
        gate.clear(row);
      }
      int out_row = row - 1;  // the last row of which the filter has all inputs
      if (out_row < strip.begin) continue;
      for (int c = 0; c < channels; ++c) {
        const float *above = gate.line(out_row - 1, c), *here = gate.line(out_row, c),
                    *below = gate.line(out_row + 1, c);
        for (int w = 0; w < pitch; w += kLanes)
          store(product.line(0, c) + w,
                load(values.line(out_row, c) + w) * (taps_bias[c] + filter(above, here, below, c, w, false)));
      }
      size_t line = shape.line(strip.image, out_row, 0);
      project_map.apply(product.line(0, 0), product.stride(), pitch, [&](int o, int w, Vec v) {
        size_t at = line + o * pitch + w;
        store(out + at, load(x + at) + gelu(v));
      });
    }
  }

  // Gradients of the parameters.
  struct Gradients {
    float *expand, *expand_bias, *taps, *taps_bias, *project, *project_bias;
  };

  // Computes the rows of a strip of `x_gradient`, and adds the strip's part of the parameters' gradients to `sums`.
  // `gradient` is the gradient with respect to the output.
  void backward(const Strip& strip, const float* x, const float* gradient, float* x_gradient,
                const Gradients& sums) const {
    BackwardRows rows(Scratch::of_thread(), strip.begin, strip.end - strip.begin, shape.channels, shape.pitch);
    recompute(strip, x, rows);
    backward_product(strip, gradient, rows);
    for (int row = strip.begin; row < strip.end; ++row) {
      for (int c = 0; c < shape.channels; ++c)
        for (int w = 0; w < shape.pitch; w += kLanes) {
          float* gate = rows.expanded.line(row, shape.channels + c) + w;
          Vec g = filter(rows.filtered_gradient.line(row - 1, c), rows.filtered_gradient.line(row, c),
                         rows.filtered_gradient.line(row + 1, c), c, w, true);
          store(gate, g * gelu_grad(load(gate)));
        }
      rows.expanded.clear_from(row, shape.width);
      store_residual_gradient(shape, strip.image, row, expand_transposed, rows.expanded, rows.normalized, rows.inverse,
                              rows.normalized_gradient, gradient, x_gradient);
    }
    add_gradients(strip, rows, sums);
  }

 private:
  // Buffers of the backward pass.
  struct BackwardRows {
    RowBuffer normalized, inverse, values, gate;  // two more rows on each side of the strip
    RowBuffer expanded;  // the same rows: expand(normalize(x)), which the backward pass replaces by its gradient
    RowBuffer product, projected_gradient, filtered_gradient;  // one more row on each side of the strip
    RowBuffer filtered, normalized_gradient;                   // one row

    BackwardRows(Scratch& s, int begin, int count, int channels, int pitch)
        : normalized(s, begin - 2, count + 4, channels, pitch), inverse(s, begin - 2, count + 4, 1, pitch),
          values(s, begin - 2, count + 4, channels, pitch), gate(s, begin - 2, count + 4, channels, pitch),
          expanded(s, begin - 2, count + 4, 2 * channels, pitch), product(s, begin - 1, count + 2, channels, pitch),
          projected_gradient(s, begin - 1, count + 2, channels, pitch),
          filtered_gradient(s, begin - 1, count + 2, channels, pitch), filtered(s, 0, 1, channels, pitch),
          normalized_gradient(s, 0, 1, channels, pitch) {}
  };

  // Recomputes the values before the filter, for the strip and two more rows on each side.
  void recompute(const Strip& strip, const float* x, BackwardRows& rows) const {
    int channels = shape.channels, pitch = shape.pitch;
    for (int row = strip.begin - 2; row < strip.end + 2; ++row) {
      if (!shape.has(row)) {
        rows.gate.clear(row);
        continue;
      }
      normalize(x + shape.line(strip.image, row, 0), channels, pitch, rows.normalized.line(row, 0),
                rows.normalized.stride(), rows.inverse.line(row, 0));
      expand_map.apply(rows.normalized.line(row, 0), rows.normalized.stride(), pitch, [&](int o, int w, Vec v) {
        store(rows.expanded.line(row, o) + w, v);
        store((o < channels ? rows.values.line(row, o) : rows.gate.line(row, o - channels)) + w, gelu(v));
      });
      rows.gate.clear_from(row, shape.width);
    }
  }

  // Recomputes the product, and computes the gradients with respect to the output of `project`, to the output of the
  // filter and to the first half of `expanded`, for the strip and one more row on each side.
  void backward_product(const Strip& strip, const float* gradient, BackwardRows& rows) const {
    int channels = shape.channels, pitch = shape.pitch;
    RowBuffer& gate = rows.gate;
    for (int row = strip.begin - 1; row < strip.end + 1; ++row) {
      if (!shape.has(row)) {
        rows.filtered_gradient.clear(row);
        continue;
      }
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          Vec f = taps_bias[c] + filter(gate.line(row - 1, c), gate.line(row, c), gate.line(row + 1, c), c, w, false);
          store(rows.filtered.line(0, c) + w, f);
          store(rows.product.line(row, c) + w, f * load(rows.values.line(row, c) + w));
        }
      const float* out_gradient = gradient + shape.line(strip.image, row, 0);
      project_map.apply(rows.product.line(row, 0), rows.product.stride(), pitch, [&](int o, int w, Vec v) {
        store(rows.projected_gradient.line(row, o) + w, load(out_gradient + o * pitch + w) * gelu_grad(v));
      });
      project_transposed.apply(rows.projected_gradient.line(row, 0), rows.projected_gradient.stride(), pitch,
                               [&](int c, int w, Vec v) {
                                 float* values = rows.expanded.line(row, c) + w;
                                 store(rows.filtered_gradient.line(row, c) + w, v * load(rows.values.line(row, c) + w));
                                 store(values, v * load(rows.filtered.line(0, c) + w) * gelu_grad(load(values)));
                               });
    }
  }

  // Adds the strip's part of the parameters' gradients to `sums`.
  void add_gradients(const Strip& strip, BackwardRows& rows, const Gradients& sums) const {
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, count = strip.end - begin;
    RowView projected = rows.projected_gradient.view(begin), expanded = rows.expanded.view(begin);
    RowView filtered = rows.filtered_gradient.view(begin);
    add_weight_gradient(rows.product.view(begin), channels, projected, channels, count, pitch, sums.project, channels);
    add_bias_gradient(projected, channels, count, pitch, sums.project_bias);
    add_weight_gradient(rows.normalized.view(begin), channels, expanded, 2 * channels, count, pitch, sums.expand,
                        2 * channels);
    add_bias_gradient(expanded, 2 * channels, count, pitch, sums.expand_bias);
    add_bias_gradient(filtered, channels, count, pitch, sums.taps_bias);
    for (int c = 0; c < channels; ++c)
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
          sums.taps[(3 * i + j) * channels + c] +=
              correlation(rows.gate.line(begin + i - 1, c) + j - 1, rows.gate.row_stride(),
                          rows.filtered_gradient.line(begin, c), rows.filtered_gradient.row_stride(), count, pitch);
  }
};

}  // namespace seemore
