// Dense 3x3 convolution of the input, or of the LayerNorm of the input.
#pragma once

#include "dense.h"

namespace seemore {

struct Convolution {
  Shape shape;                          // shape of the input
  int outputs;                          // number of output channels
  const float *norm_scale, *norm_bias;  // (C), or null if there is no LayerNorm
  Linear forward_map, transposed_map;   // maps from nine taps of all channels to one pixel; see `lines`

  // `taps` is (3, 3, C, outputs), `bias` (outputs).
  Convolution(Shape shape, int outputs, const float* norm_scale, const float* norm_bias, const float* taps,
              const float* bias)
      : shape(shape), outputs(outputs), norm_scale(norm_scale), norm_bias(norm_bias),
        forward_map(9 * shape.channels, outputs, taps, bias),
        // The transposed map takes (tap, output channel), with the taps in reverse order, to input channels.
        transposed_map(
            9 * outputs, shape.channels,
            [=](int i, int o) { return taps[((8 - i / outputs) * shape.channels + o) * outputs + i % outputs]; },
            [](int) { return 0.0f; }) {}

  // Returns the inputs of the nine taps for one row of the output: a line for each (tap, channel). `rows` must hold the
  // rows above and below.
  static std::vector<const float*> lines(RowBuffer& rows, int row, int channels) {
    std::vector<const float*> all;
    all.reserve(9 * channels);
    for (int i = -1; i <= 1; ++i)
      for (int j = -1; j <= 1; ++j)
        for (int c = 0; c < channels; ++c) all.push_back(rows.line(row + i, c) + j);
    return all;
  }

  // Writes one row of x to `to`, after LayerNorm if there is one, with zeros beyond the valid columns. `inverse`
  // receives 1 / deviation of the LayerNorm, unless it is null.
  void read(const float* x, int image, int row, RowBuffer& to, float* inverse) const {
    const float* from = x + shape.line(image, row, 0);
    if (norm_scale) {
      normalize(from, shape.channels, shape.pitch, to.line(row, 0), to.stride(), inverse);
      for (int c = 0; c < shape.channels; ++c)
        for (int w = 0; w < shape.pitch; w += kLanes)
          store(to.line(row, c) + w, load(to.line(row, c) + w) * norm_scale[c] + norm_bias[c]);
    } else {
      for (int c = 0; c < shape.channels; ++c) std::copy_n(from + c * shape.pitch, shape.pitch, to.line(row, c));
    }
    to.clear_from(row, shape.width);
  }

  // Computes the rows of a strip of the output.
  void forward(const Strip& strip, const float* x, float* out) const {
    Scratch& scratch = Scratch::of_thread();
    RowBuffer input(scratch, strip.begin - 1, 3, shape.channels, shape.pitch);
    Shape out_shape = shape;
    out_shape.channels = outputs;
    for (int row = strip.begin - 1; row <= strip.end; ++row) {
      if (shape.has(row))
        read(x, strip.image, row, input, nullptr);
      else
        input.clear(row);
      if (row - 1 < strip.begin) continue;
      float* to = out + out_shape.line(strip.image, row - 1, 0);
      forward_map.apply(lines(input, row - 1, shape.channels).data(), shape.pitch,
                        [&](int o, int w, Vec v) { store(to + o * shape.pitch + w, v); });
    }
  }

  // Gradients of the parameters; those of the LayerNorm are unused if there is none.
  struct Gradients {
    float *norm_scale, *norm_bias, *taps, *bias;
  };

  // Computes the rows of a strip of `x_gradient`, and adds the strip's part of the parameters' gradients to `sums`.
  // `gradient` is the gradient with respect to the output.
  void backward(const Strip& strip, const float* x, const float* gradient, float* x_gradient,
                const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, end = strip.end, rows = end - begin;
    Shape out_shape = shape;
    out_shape.channels = outputs;
    RowBuffer input(scratch, begin - 1, rows + 2, channels, pitch), inverse(scratch, begin - 1, rows + 2, 1, pitch);
    RowBuffer output(scratch, begin - 1, rows + 2, outputs, pitch);
    RowBuffer input_gradient(scratch, 0, 1, channels, pitch), normalized(scratch, 0, 1, channels, pitch);
    for (int row = begin - 1; row <= end; ++row) {
      if (shape.has(row)) {
        read(x, strip.image, row, input, inverse.line(row, 0));
        for (int o = 0; o < outputs; ++o)
          std::copy_n(gradient + out_shape.line(strip.image, row, o), pitch, output.line(row, o));
      } else {
        input.clear(row);
        output.clear(row);
      }
    }
    for (int row = begin; row < end; ++row) {
      float* to = x_gradient + shape.line(strip.image, row, 0);
      transposed_map.apply(lines(output, row, outputs).data(), pitch, [&](int c, int w, Vec v) {
        store((norm_scale ? input_gradient.line(0, c) : to + c * pitch) + w, v);
      });
      if (!norm_scale) {
        for (int c = 0; c < channels; ++c) std::fill(to + c * pitch + shape.width, to + (c + 1) * pitch, 0.0f);
        continue;
      }
      input_gradient.clear_from(0, shape.width);
      normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(0, 0), normalized.stride(),
                nullptr);
      for (int c = 0; c < channels; ++c) {
        Vec scale{}, bias{};
        for (int w = 0; w < pitch; w += kLanes) {
          float* at = input_gradient.line(0, c) + w;
          Vec g = load(at);
          bias += g;
          scale += g * load(normalized.line(0, c) + w);
          store(at, g * norm_scale[c]);
        }
        sums.norm_scale[c] += sum(scale);
        sums.norm_bias[c] += sum(bias);
      }
      normalize_backward(input_gradient.line(0, 0), input_gradient.stride(), normalized.line(0, 0), normalized.stride(),
                         inverse.line(row, 0), channels, pitch,
                         [&](int c, int w, Vec v) { store(to + c * pitch + w, v); });
    }
    RowView output_rows = output.view(begin);
    add_bias_gradient(output_rows, outputs, rows, pitch, sums.bias);
    for (int i = 0; i < 3; ++i)
      for (int j = 0; j < 3; ++j)
        add_weight_gradient({input.line(begin + i - 1, 0) + j - 1, input.row_stride(), input.stride()}, channels,
                            output_rows, outputs, rows, pitch, sums.taps + (3 * i + j) * channels * outputs, outputs);
  }
};

}  // namespace seemore
