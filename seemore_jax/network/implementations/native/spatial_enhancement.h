// Striped convolution, and spatial enhancement expertise (paper, section 3.4: SEE in the spatial modulating expert).
#pragma once

#include "dense.h"

namespace seemore {

// Striped convolution: a depthwise filter along rows, then a depthwise filter along columns, both of odd length.
struct Striped {
  int channels, length;
  const float *row_taps, *row_bias, *column_taps, *column_bias;  // (length, C), (C), (length, C), (C)
  // Number of pixels on each side that a filter reads.
  int reach() const { return length / 2; }

  // Applies the row filter to a line, without bias, at the columns w, ..., w + kLanes - 1. `flipped` applies its
  // transpose. The line has reach() <= kMargin more floats on each side.
  Vec row(const float* line, int channel, int w, bool flipped) const {
    Vec total{};
    for (int t = 0; t < length; ++t)
      total += row_taps[(flipped ? length - 1 - t : t) * channels + channel] * load(line + w + t - reach());
    return total;
  }
  // Applies the column filter, without bias, at one row and at the columns w, ..., w + kLanes - 1. `flipped` applies
  // its transpose. `rows` holds reach() more rows on each side.
  Vec column(RowBuffer& rows, int row, int channel, int w, bool flipped) const {
    Vec total{};
    for (int t = 0; t < length; ++t)
      total += column_taps[(flipped ? length - 1 - t : t) * channels + channel] *
               load(rows.line(row + t - reach(), channel) + w);
    return total;
  }
  // Applies the row filter with bias to a row of `from`, and writes the result to a row of `to`.
  void apply_row(RowBuffer& from, int from_row, RowBuffer& to, int to_row, int pitch) const {
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; w += kLanes)
        store(to.line(to_row, c) + w, row_bias[c] + row(from.line(from_row, c), c, w, false));
  }

  // Gradients of the parameters.
  struct Gradients {
    float *row_taps, *row_bias, *column_taps, *column_bias;
  };
  // Adds the part of the rows begin, ..., begin + rows - 1 to the gradients of the parameters. `row_output` is the
  // output of the row filter and holds reach() more rows on each side; `row_output_gradient` and `output_gradient` are
  // the gradients with respect to the outputs of the row filter and of the column filter. No row of the buffers was
  // overwritten by a later one, so that the rows are in order in memory.
  void add_gradients(RowBuffer& input, RowBuffer& row_output, RowBuffer& row_output_gradient,
                     RowBuffer& output_gradient, int begin, int rows, int pitch, const Gradients& sums) const {
    add_bias_gradient(row_output_gradient.view(begin), channels, rows, pitch, sums.row_bias);
    add_bias_gradient(output_gradient.view(begin), channels, rows, pitch, sums.column_bias);
    for (int c = 0; c < channels; ++c)
      for (int t = 0; t < length; ++t) {
        sums.row_taps[t * channels + c] +=
            correlation(input.line(begin, c) + t - reach(), input.row_stride(), row_output_gradient.line(begin, c),
                        row_output_gradient.row_stride(), rows, pitch);
        sums.column_taps[t * channels + c] +=
            correlation(row_output.line(begin + t - reach(), c), row_output.row_stride(),
                        output_gradient.line(begin, c), output_gradient.row_stride(), rows, pitch);
      }
  }
};

// x + project(striped(query) * value), where query and value are the halves of GELU(expand(normalize(x))).
struct SpatialEnhancement {
  Shape shape;
  Striped striped;
  Linear expand_map, project_map, expand_transposed, project_transposed;

  // `expand` is (C, 2C), `project` (C, C).
  SpatialEnhancement(Shape shape, const float* expand, const float* expand_bias, Striped striped, const float* project,
                     const float* project_bias)
      : shape(shape), striped(striped), expand_map(shape.channels, 2 * shape.channels, expand, expand_bias),
        project_map(shape.channels, shape.channels, project, project_bias),
        expand_transposed(Linear::transposed(shape.channels, 2 * shape.channels, expand)),
        project_transposed(Linear::transposed(shape.channels, shape.channels, project)) {}

  // Computes the rows of a strip of the output.
  void forward(const Strip& strip, const float* x, float* out) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    int first = strip.begin - reach;
    RowBuffer normalized(scratch, 0, 1, channels, pitch), query(scratch, 0, 1, channels, pitch);
    RowBuffer value(scratch, first, reach + 1, channels, pitch);
    RowBuffer row_output(scratch, first, 2 * reach + 1, channels, pitch);
    RowBuffer product(scratch, 0, 1, channels, pitch);
    for (int row = first; row < strip.end + reach; ++row) {
      if (shape.has(row)) {
        normalize(x + shape.line(strip.image, row, 0), channels, pitch, normalized.line(0, 0), normalized.stride(),
                  nullptr);
        expand_map.apply(normalized.line(0, 0), normalized.stride(), pitch, [&](int o, int w, Vec v) {
          store((o < channels ? query.line(0, o) : value.line(row, o - channels)) + w, gelu(v));
        });
        query.clear_from(0, shape.width);
        striped.apply_row(query, 0, row_output, row, pitch);
      } else {
        row_output.clear(row);
      }
      int out_row = row - reach;  // the last row of which the column filter has all inputs
      if (out_row < strip.begin) continue;
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes)
          store(product.line(0, c) + w,
                load(value.line(out_row, c) + w) *
                    (striped.column_bias[c] + striped.column(row_output, out_row, c, w, false)));
      size_t line = shape.line(strip.image, out_row, 0);
      project_map.apply(product.line(0, 0), product.stride(), pitch, [&](int o, int w, Vec v) {
        size_t at = line + o * pitch + w;
        store(out + at, load(x + at) + v);
      });
    }
  }

  // Gradients of the parameters.
  struct Gradients {
    float *expand, *expand_bias;
    Striped::Gradients striped;
    float *project, *project_bias;
  };

  // Computes the rows of a strip of `x_gradient`, and adds the strip's part of the parameters' gradients to `sums`.
  // `gradient` is the gradient with respect to the output.
  void backward(const Strip& strip, const float* x, const float* gradient, float* x_gradient,
                const Gradients& sums) const {
    BackwardRows rows(Scratch::of_thread(), strip, shape, striped.reach());
    recompute(strip, x, gradient, rows);
    for (int row = strip.begin; row < strip.end; ++row) backward_row(strip, row, gradient, x_gradient, rows);
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, count = strip.end - begin;
    RowView output{gradient + shape.line(strip.image, begin, 0), static_cast<ptrdiff_t>(shape.row_stride()), pitch};
    RowView expanded = rows.expanded.view(begin);
    add_weight_gradient(rows.product.view(begin), channels, output, channels, count, pitch, sums.project, channels);
    add_bias_gradient(output, channels, count, pitch, sums.project_bias);
    add_weight_gradient(rows.normalized.view(begin), channels, expanded, 2 * channels, count, pitch, sums.expand,
                        2 * channels);
    add_bias_gradient(expanded, 2 * channels, count, pitch, sums.expand_bias);
    striped.add_gradients(rows.query, rows.row_output, rows.row_output_gradient, rows.striped_gradient, begin, count,
                          pitch, sums.striped);
  }

 private:
  // Buffers of the backward pass. Those with a neighbourhood hold `reach` more rows on each side of the strip.
  struct BackwardRows {
    RowBuffer normalized, inverse, query, row_output, product_gradient, striped_gradient;  // with a neighbourhood
    RowBuffer expanded;  // with a neighbourhood: expand(normalize(x)); `backward_row` replaces it by its gradient
    RowBuffer product, row_output_gradient;  // the rows of the strip
    RowBuffer normalized_gradient;           // one row

    BackwardRows(Scratch& scratch, const Strip& strip, const Shape& shape, int reach)
        : BackwardRows(scratch, strip.begin, strip.end - strip.begin, reach, shape.channels, shape.pitch) {}
    BackwardRows(Scratch& s, int begin, int count, int reach, int channels, int pitch)
        : normalized(s, begin - reach, count + 2 * reach, channels, pitch),
          inverse(s, begin - reach, count + 2 * reach, 1, pitch),
          query(s, begin - reach, count + 2 * reach, channels, pitch),
          row_output(s, begin - reach, count + 2 * reach, channels, pitch),
          product_gradient(s, begin - reach, count + 2 * reach, channels, pitch),
          striped_gradient(s, begin - reach, count + 2 * reach, channels, pitch),
          expanded(s, begin - reach, count + 2 * reach, 2 * channels, pitch), product(s, begin, count, channels, pitch),
          row_output_gradient(s, begin, count, channels, pitch), normalized_gradient(s, 0, 1, channels, pitch) {}
  };

  // Recomputes the values before the column filter, and computes the gradients with respect to the product and to the
  // output of the striped convolution, for the strip and its neighbourhood.
  void recompute(const Strip& strip, const float* x, const float* gradient, BackwardRows& rows) const {
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    for (int row = strip.begin - reach; row < strip.end + reach; ++row) {
      if (!shape.has(row)) {
        rows.row_output.clear(row);
        rows.striped_gradient.clear(row);
        continue;
      }
      normalize(x + shape.line(strip.image, row, 0), channels, pitch, rows.normalized.line(row, 0),
                rows.normalized.stride(), rows.inverse.line(row, 0));
      expand_map.apply(rows.normalized.line(row, 0), rows.normalized.stride(), pitch, [&](int o, int w, Vec v) {
        store(rows.expanded.line(row, o) + w, v);
        if (o < channels) store(rows.query.line(row, o) + w, gelu(v));
      });
      rows.query.clear_from(row, shape.width);
      striped.apply_row(rows.query, row, rows.row_output, row, pitch);
      project_transposed.apply(gradient + shape.line(strip.image, row, 0), pitch, pitch, [&](int c, int w, Vec v) {
        store(rows.product_gradient.line(row, c) + w, v);
        store(rows.striped_gradient.line(row, c) + w, v * gelu(load(rows.expanded.line(row, channels + c) + w)));
      });
    }
  }

  // Computes one row of the product, of the gradients before it, and of `x_gradient`.
  void backward_row(const Strip& strip, int row, const float* gradient, float* x_gradient, BackwardRows& rows) const {
    int channels = shape.channels, pitch = shape.pitch;
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; w += kLanes) {
        Vec striped_query = striped.column_bias[c] + striped.column(rows.row_output, row, c, w, false);
        float* value = rows.expanded.line(row, channels + c) + w;
        Vec before_gelu = load(value);
        store(rows.product.line(row, c) + w, striped_query * gelu(before_gelu));
        store(value, load(rows.product_gradient.line(row, c) + w) * striped_query * gelu_grad(before_gelu));
        store(rows.row_output_gradient.line(row, c) + w, striped.column(rows.striped_gradient, row, c, w, true));
      }
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; w += kLanes) {
        float* query = rows.expanded.line(row, c) + w;
        store(query, striped.row(rows.row_output_gradient.line(row, c), c, w, true) * gelu_grad(load(query)));
      }
    rows.expanded.clear_from(row, shape.width);
    store_residual_gradient(shape, strip.image, row, expand_transposed, rows.expanded, rows.normalized, rows.inverse,
                            rows.normalized_gradient, gradient, x_gradient);
  }
};

}  // namespace seemore
