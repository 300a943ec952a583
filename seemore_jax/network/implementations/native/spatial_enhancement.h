// x + project(striped(query) * value), where query and value are the halves of GELU(expand(normalized x)) and
// striped is a depthwise row of taps, then a column of taps.
#pragma once

#include "dense.h"

namespace seemore {

// The two depthwise filters of a striped convolution, of odd length.
struct Striped {
  int channels, length;
  const float *row_taps, *row_bias, *column_taps, *column_bias;  // (length, C), (C), (length, C), (C)
  int reach() const { return length / 2; }

  // Columns w … of the row filter; the line has reach() <= kMargin more floats on each side.
  Vec row(const float* line, int channel, int w, bool flipped) const {
    Vec total{};
    for (int t = 0; t < length; ++t)
      total += row_taps[(flipped ? length - 1 - t : t) * channels + channel] * load(line + w + t - reach());
    return total;
  }
  // Columns w … of the column filter; `rows` holds reach() rows on each side.
  Vec column(Rows& rows, int row, int channel, int w, bool flipped) const {
    Vec total{};
    for (int t = 0; t < length; ++t)
      total += column_taps[(flipped ? length - 1 - t : t) * channels + channel] *
               load(rows.line(row + t - reach(), channel) + w);
    return total;
  }
  // A row of `to` becomes the row filter of one of `from`.
  void apply_row(Rows& from, int from_row, Rows& to, int to_row, int pitch) const {
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; w += kLanes)
        store(to.line(to_row, c) + w, row_bias[c] + row(from.line(from_row, c), c, w, false));
  }

  struct Gradients {
    float *row_taps, *row_bias, *column_taps, *column_bias;
  };
  // Adds the gradients of rows begin … begin + rows - 1, from those towards the outputs of both filters.
  // `between` holds reach() rows on each side; none of the rings has turned, so that rows follow each other in memory.
  void add_gradients(Rows& input, Rows& between, Rows& between_gradient, Rows& output_gradient, int begin, int rows,
                     int pitch, const Gradients& sums) const {
    Block after_row = between_gradient.from(begin);
    Block after_column = output_gradient.from(begin);
    add_bias_gradient(after_row, channels, rows, pitch, sums.row_bias);
    add_bias_gradient(after_column, channels, rows, pitch, sums.column_bias);
    for (int c = 0; c < channels; ++c)
      for (int t = 0; t < length; ++t) {
        sums.row_taps[t * channels + c] +=
            correlation(input.line(begin, c) + t - reach(), input.row_stride(), between_gradient.line(begin, c),
                        between_gradient.row_stride(), rows, pitch);
        sums.column_taps[t * channels + c] +=
            correlation(between.line(begin + t - reach(), c), between.row_stride(), output_gradient.line(begin, c),
                        output_gradient.row_stride(), rows, pitch);
      }
  }
};

struct SpatialEnhancement {
  Shape shape;
  Striped striped;
  Linear expanding, projecting, unexpanding, unprojecting;

  SpatialEnhancement(Shape shape, const float* expand, const float* expand_bias, Striped striped, const float* project,
                     const float* project_bias)
      : shape(shape), striped(striped), expanding(shape.channels, 2 * shape.channels, expand, expand_bias),
        projecting(shape.channels, shape.channels, project, project_bias),
        unexpanding(Linear::transposed(shape.channels, 2 * shape.channels, expand)),
        unprojecting(Linear::transposed(shape.channels, shape.channels, project)) {}

  void forward(const Strip& strip, const float* x, float* out) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    int first = strip.begin - reach;
    Rows normalized(scratch, 0, 1, channels, pitch), query(scratch, 0, 1, channels, pitch);
    Rows value(scratch, first, reach + 1, channels, pitch), between(scratch, first, 2 * reach + 1, channels, pitch);
    Rows product(scratch, 0, 1, channels, pitch);
    for (int row = first; row < strip.end + reach; ++row) {
      if (shape.has(row)) {
        normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(0, 0), normalized.stride(),
                  nullptr);
        expanding.apply(normalized.line(0, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
          store((o < channels ? query.line(0, o) : value.line(row, o - channels)) + w, gelu(v));
        });
        query.clear_from(0, shape.width);
        striped.apply_row(query, 0, between, row, pitch);
      } else {
        between.clear(row);
      }
      int done = row - reach;
      if (done < strip.begin) continue;
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes)
          store(product.line(0, c) + w,
                load(value.line(done, c) + w) * (striped.column_bias[c] + striped.column(between, done, c, w, false)));
      size_t line = shape.line(strip.image, done, 0);
      projecting.apply(product.line(0, 0), product.stride(), pitch, [&](int o, int w, Vec v) {
        size_t at = line + o * pitch + w;
        store(out + at, load(x + at) + v);
      });
    }
  }

  struct Gradients {
    float *expand, *expand_bias;
    Striped::Gradients striped;
    float *project, *project_bias;
  };

  void backward(const Strip& strip, const float* x, const float* gradient, float* x_gradient,
                const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    int begin = strip.begin, end = strip.end, rows = end - begin, first = begin - reach, all = rows + 2 * reach;
    Rows normalized(scratch, first, all, channels, pitch), inverse(scratch, first, all, 1, pitch);
    Rows before(scratch, first, all, 2 * channels, pitch);  // ahead of GELU; then the gradient there
    Rows query(scratch, first, all, channels, pitch), between(scratch, first, all, channels, pitch);
    Rows product(scratch, begin, rows, channels, pitch);
    Rows product_gradient(scratch, first, all, channels, pitch), striped_gradient(scratch, first, all, channels, pitch);
    Rows between_gradient(scratch, begin, rows, channels, pitch);
    Rows normalized_gradient(scratch, 0, 1, channels, pitch);

    for (int row = first; row < end + reach; ++row) {
      if (!shape.has(row)) {
        between.clear(row);
        striped_gradient.clear(row);
        continue;
      }
      normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(row, 0), normalized.stride(),
                inverse.line(row, 0));
      expanding.apply(normalized.line(row, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
        store(before.line(row, o) + w, v);
        if (o < channels) store(query.line(row, o) + w, gelu(v));
      });
      query.clear_from(row, shape.width);
      striped.apply_row(query, row, between, row, pitch);
      unprojecting.apply(gradient + shape.line(strip.image, row, 0), pitch, pitch, [&](int c, int w, Vec v) {
        store(product_gradient.line(row, c) + w, v);
        store(striped_gradient.line(row, c) + w, v * gelu(load(before.line(row, channels + c) + w)));
      });
    }
    for (int row = begin; row < end; ++row) {
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          Vec s = striped.column_bias[c] + striped.column(between, row, c, w, false);
          float* at_value = before.line(row, channels + c) + w;
          Vec ahead = load(at_value);
          store(product.line(row, c) + w, s * gelu(ahead));
          store(at_value, load(product_gradient.line(row, c) + w) * s * gelu_grad(ahead));
          store(between_gradient.line(row, c) + w, striped.column(striped_gradient, row, c, w, true));
        }
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          float* at_query = before.line(row, c) + w;
          store(at_query, striped.row(between_gradient.line(row, c), c, w, true) * gelu_grad(load(at_query)));
        }
      before.clear_from(row, shape.width);
      store_residual_gradient(shape, strip.image, row, unexpanding, before, normalized, inverse, normalized_gradient,
                              gradient, x_gradient);
    }
    Block output{gradient + shape.line(strip.image, begin, 0), static_cast<ptrdiff_t>(shape.row_stride()), pitch};
    Block at_before = before.from(begin);
    add_weight_gradient(product.from(begin), channels, output, channels, rows, pitch, sums.project, channels);
    add_bias_gradient(output, channels, rows, pitch, sums.project_bias);
    add_weight_gradient(normalized.from(begin), channels, at_before, 2 * channels, rows, pitch, sums.expand,
                        2 * channels);
    add_bias_gradient(at_before, 2 * channels, rows, pitch, sums.expand_bias);
    striped.add_gradients(query, between, between_gradient, striped_gradient, begin, rows, pitch, sums.striped);
  }
};

}  // namespace seemore
