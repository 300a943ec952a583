// x + GELU(project(values * depthwise3(gate))), where values and gate are the halves of GELU(expand(normalized x)).
#pragma once

#include "dense.h"

namespace seemore {

struct GatedFeedForward {
  Shape shape;
  const float *taps, *taps_bias;  // (3, 3, C), (C)
  Linear expanding, projecting, unexpanding, unprojecting;

  // `expand` is (C, 2C), `project` (C, C).
  GatedFeedForward(Shape shape, const float* expand, const float* expand_bias, const float* taps,
                   const float* taps_bias, const float* project, const float* project_bias)
      : shape(shape), taps(taps), taps_bias(taps_bias),
        expanding(shape.channels, 2 * shape.channels, expand, expand_bias),
        projecting(shape.channels, shape.channels, project, project_bias),
        unexpanding(Linear::transposed(shape.channels, 2 * shape.channels, expand)),
        unprojecting(Linear::transposed(shape.channels, shape.channels, project)) {}

  // depthwise3 of one line at columns w …; `flipped` is its transpose. Lines have one more float on each side.
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

  void forward(const Strip& strip, const float* x, float* out) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch;
    Rows normalized(scratch, 0, 1, channels, pitch);
    Rows values(scratch, strip.begin - 1, 2, channels, pitch), gate(scratch, strip.begin - 1, 3, channels, pitch);
    Rows product(scratch, 0, 1, channels, pitch);
    for (int row = strip.begin - 1; row <= strip.end; ++row) {
      if (shape.has(row)) {
        normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(0, 0), normalized.stride(),
                  nullptr);
        float *to_values = values.line(row, 0), *to_gate = gate.line(row, 0);
        expanding.apply(normalized.line(0, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
          float* to = o < channels ? to_values + o * values.stride() : to_gate + (o - channels) * gate.stride();
          store(to + w, gelu(v));
        });
        gate.clear_from(row, shape.width);
      } else {
        gate.clear(row);
      }
      int done = row - 1;
      if (done < strip.begin) continue;
      for (int c = 0; c < channels; ++c) {
        const float *above = gate.line(done - 1, c), *here = gate.line(done, c), *below = gate.line(done + 1, c);
        for (int w = 0; w < pitch; w += kLanes)
          store(product.line(0, c) + w,
                load(values.line(done, c) + w) * (taps_bias[c] + filter(above, here, below, c, w, false)));
      }
      size_t line = shape.line(strip.image, done, 0);
      projecting.apply(product.line(0, 0), product.stride(), pitch, [&](int o, int w, Vec v) {
        size_t at = line + o * pitch + w;
        store(out + at, load(x + at) + gelu(v));
      });
    }
  }

  struct Gradients {
    float *expand, *expand_bias, *taps, *taps_bias, *project, *project_bias;
  };

  void backward(const Strip& strip, const float* x, const float* gradient, float* x_gradient,
                const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch;
    int begin = strip.begin, end = strip.end, rows = end - begin;
    Rows normalized(scratch, begin - 2, rows + 4, channels, pitch), inverse(scratch, begin - 2, rows + 4, 1, pitch);
    Rows before(scratch, begin - 2, rows + 4, 2 * channels, pitch);  // ahead of GELU; then the gradient there
    Rows values(scratch, begin - 2, rows + 4, channels, pitch), gate(scratch, begin - 2, rows + 4, channels, pitch);
    Rows filtered(scratch, 0, 1, channels, pitch), product(scratch, begin - 1, rows + 2, channels, pitch);
    Rows projected(scratch, begin - 1, rows + 2, channels, pitch);  // the gradient ahead of the last GELU
    Rows filtered_gradient(scratch, begin - 1, rows + 2, channels, pitch);
    Rows normalized_gradient(scratch, 0, 1, channels, pitch);

    for (int row = begin - 2; row < end + 2; ++row) {
      if (!shape.has(row)) {
        gate.clear(row);
        continue;
      }
      normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(row, 0), normalized.stride(),
                inverse.line(row, 0));
      expanding.apply(normalized.line(row, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
        store(before.line(row, o) + w, v);
        store((o < channels ? values.line(row, o) : gate.line(row, o - channels)) + w, gelu(v));
      });
      gate.clear_from(row, shape.width);
    }
    for (int row = begin - 1; row < end + 1; ++row) {
      if (!shape.has(row)) {
        filtered_gradient.clear(row);
        continue;
      }
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          Vec f = taps_bias[c] + filter(gate.line(row - 1, c), gate.line(row, c), gate.line(row + 1, c), c, w, false);
          store(filtered.line(0, c) + w, f);
          store(product.line(row, c) + w, f * load(values.line(row, c) + w));
        }
      const float* from_above = gradient + shape.line(strip.image, row, 0);
      projecting.apply(product.line(row, 0), product.stride(), pitch, [&](int o, int w, Vec v) {
        store(projected.line(row, o) + w, load(from_above + o * pitch + w) * gelu_grad(v));
      });
      unprojecting.apply(projected.line(row, 0), projected.stride(), pitch, [&](int c, int w, Vec v) {
        float* to_values = before.line(row, c) + w;
        store(filtered_gradient.line(row, c) + w, v * load(values.line(row, c) + w));
        store(to_values, v * load(filtered.line(0, c) + w) * gelu_grad(load(to_values)));
      });
    }
    for (int row = begin; row < end; ++row) {
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          float* to_gate = before.line(row, channels + c) + w;
          Vec g = filter(filtered_gradient.line(row - 1, c), filtered_gradient.line(row, c),
                         filtered_gradient.line(row + 1, c), c, w, true);
          store(to_gate, g * gelu_grad(load(to_gate)));
        }
      before.clear_from(row, shape.width);
      store_residual_gradient(shape, strip.image, row, unexpanding, before, normalized, inverse, normalized_gradient,
                              gradient, x_gradient);
    }
    Block at_projected = projected.from(begin);
    Block at_before = before.from(begin);
    Block at_filtered = filtered_gradient.from(begin);
    add_weight_gradient(product.from(begin), channels, at_projected, channels, rows, pitch, sums.project, channels);
    add_bias_gradient(at_projected, channels, rows, pitch, sums.project_bias);
    add_weight_gradient(normalized.from(begin), channels, at_before, 2 * channels, rows, pitch, sums.expand,
                        2 * channels);
    add_bias_gradient(at_before, 2 * channels, rows, pitch, sums.expand_bias);
    add_bias_gradient(at_filtered, channels, rows, pitch, sums.taps_bias);
    for (int c = 0; c < channels; ++c)
      for (int i = 0; i < 3; ++i)
        for (int j = 0; j < 3; ++j)
          sums.taps[(3 * i + j) * channels + c] +=
              correlation(gate.line(begin + i - 1, c) + j - 1, gate.row_stride(), filtered_gradient.line(begin, c),
                          filtered_gradient.row_stride(), rows, pitch);
  }
};

}  // namespace seemore
