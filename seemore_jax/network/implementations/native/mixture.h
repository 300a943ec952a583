// Mixture of low-rank experts (paper, section 3.3): its inputs, the chosen experts, and the reduction of its context.
#pragma once

#include "spatial_enhancement.h"

namespace seemore {

// Local features and context of an embedded input: features = GELU(striped(a)) and context = b, where a and b are the
// halves of expand(GELU(input)).
struct FeaturesAndContext {
  Shape shape;
  int sum_begin, sum_end;  // rows that count in the sum of the features
  Striped striped;
  Linear expand_map, expand_transposed;

  FeaturesAndContext(Shape shape, int sum_begin, int sum_end, const float* expand, const float* expand_bias,
                     Striped striped)
      : shape(shape), sum_begin(sum_begin), sum_end(sum_end), striped(striped),
        expand_map(shape.channels, 2 * shape.channels, expand, expand_bias),
        expand_transposed(Linear::transposed(shape.channels, 2 * shape.channels, expand)) {}

  // Computes the rows of a strip. features(row, channel) and context(row, channel) return the lines that receive them.
  // done(row) is called when both are written; the context is reach() rows ahead of the features. `pooled` receives the
  // sum of the features over the rows sum_begin, ..., sum_end - 1, added to its value.
  template <class Line, class OtherLine, class Done>
  void forward(const Strip& strip, const float* x, Scratch& scratch, Line&& features, OtherLine&& context,
               float* pooled, Done&& done) const {
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach(), first = strip.begin - reach;
    RowBuffer input(scratch, 0, 1, channels, pitch), local(scratch, 0, 1, channels, pitch);
    RowBuffer row_output(scratch, first, 2 * reach + 1, channels, pitch);
    for (int in_row = first; in_row < strip.end + reach; ++in_row) {
      if (shape.has(in_row)) {
        const float* from = x + shape.line(strip.image, in_row, 0);
        bool in_strip = in_row >= strip.begin && in_row < strip.end;
        for (int c = 0; c < channels; ++c)
          for (int w = 0; w < pitch; w += kLanes) store(input.line(0, c) + w, gelu(load(from + c * pitch + w)));
        expand_map.apply(input.line(0, 0), input.stride(), pitch, [&](int o, int w, Vec v) {
          if (o < channels)
            store(local.line(0, o) + w, v);
          else if (in_strip)
            store(context(in_row, o - channels) + w, v);
        });
        local.clear_from(0, shape.width);
        striped.apply_row(local, 0, row_output, in_row, pitch);
      } else {
        row_output.clear(in_row);
      }
      int row = in_row - reach;  // the last row of which the column filter has all inputs
      if (row < strip.begin) continue;
      for (int c = 0; c < channels; ++c) {
        float* to = features(row, c);
        for (int w = 0; w < pitch; w += kLanes)
          store(to + w, gelu(striped.column_bias[c] + striped.column(row_output, row, c, w, false)));
        std::fill(to + shape.width, to + pitch, 0.0f);
        if (row < sum_begin || row >= sum_end) continue;
        Vec total{};
        for (int w = 0; w < pitch; w += kLanes) total += load(to + w);
        pooled[c] += sum(total);
      }
      done(row);
    }
  }

  // Gradients of the parameters.
  struct Gradients {
    float *expand, *expand_bias;
    Striped::Gradients striped;
  };

  // Computes the rows of a strip of `x_gradient`, and adds the strip's part of the parameters' gradients to `sums`. The
  // other gradients are with respect to the features, to the context, and to the sum of the features of the image.
  void backward(const Strip& strip, const float* x, const float* features_gradient, const float* context_gradient,
                const float* pooled_gradient, float* x_gradient, const Gradients& sums) const {
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, count = strip.end - begin;
    BackwardRows rows(Scratch::of_thread(), begin, count, striped.reach(), channels, pitch);
    recompute(strip, x, rows);
    backward_gelu(strip, features_gradient, pooled_gradient, rows);
    for (int row = begin; row < strip.end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      for (int c = 0; c < channels; ++c) {
        for (int w = 0; w < pitch; w += kLanes)
          store(rows.row_output_gradient.line(row, c) + w, striped.column(rows.striped_gradient, row, c, w, true));
        for (int w = 0; w < pitch; w += kLanes)
          store(rows.expanded_gradient.line(row, c) + w,
                striped.row(rows.row_output_gradient.line(row, c), c, w, true));
        std::copy_n(context_gradient + line + c * pitch, pitch, rows.expanded_gradient.line(row, channels + c));
      }
      rows.expanded_gradient.clear_from(row, shape.width);
      expand_transposed.apply(rows.expanded_gradient.line(row, 0), rows.expanded_gradient.stride(), pitch,
                              [&](int c, int w, Vec v) {
                                size_t at = line + c * pitch + w;
                                store(x_gradient + at, v * gelu_grad(load(x + at)));
                              });
    }
    RowView expanded = rows.expanded_gradient.view(begin);
    add_weight_gradient(rows.input.view(begin), channels, expanded, 2 * channels, count, pitch, sums.expand,
                        2 * channels);
    add_bias_gradient(expanded, 2 * channels, count, pitch, sums.expand_bias);
    striped.add_gradients(rows.local, rows.row_output, rows.row_output_gradient, rows.striped_gradient, begin, count,
                          pitch, sums.striped);
  }

 private:
  // Buffers of the backward pass.
  struct BackwardRows {
    RowBuffer input, local, row_output;                // 2 * reach more rows on each side of the strip
    RowBuffer striped_gradient;                        // reach more rows on each side of the strip
    RowBuffer expanded_gradient, row_output_gradient;  // the rows of the strip

    BackwardRows(Scratch& s, int begin, int count, int reach, int channels, int pitch)
        : input(s, begin - 2 * reach, count + 4 * reach, channels, pitch),
          local(s, begin - 2 * reach, count + 4 * reach, channels, pitch),
          row_output(s, begin - 2 * reach, count + 4 * reach, channels, pitch),
          striped_gradient(s, begin - reach, count + 2 * reach, channels, pitch),
          expanded_gradient(s, begin, count, 2 * channels, pitch),
          row_output_gradient(s, begin, count, channels, pitch) {}
  };

  // Recomputes the values before the column filter, for the strip and 2 * reach more rows on each side.
  void recompute(const Strip& strip, const float* x, BackwardRows& rows) const {
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    for (int row = strip.begin - 2 * reach; row < strip.end + 2 * reach; ++row) {
      if (!shape.has(row)) {
        rows.row_output.clear(row);
        continue;
      }
      const float* from = x + shape.line(strip.image, row, 0);
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) store(rows.input.line(row, c) + w, gelu(load(from + c * pitch + w)));
      expand_map.apply(rows.input.line(row, 0), rows.input.stride(), pitch, [&](int o, int w, Vec v) {
        if (o < channels) store(rows.local.line(row, o) + w, v);
      });
      rows.local.clear_from(row, shape.width);
      striped.apply_row(rows.local, row, rows.row_output, row, pitch);
    }
  }

  // Computes the gradient with respect to the output of the striped convolution, for the strip and `reach` more rows on
  // each side.
  void backward_gelu(const Strip& strip, const float* features_gradient, const float* pooled_gradient,
                     BackwardRows& rows) const {
    int reach = striped.reach();
    for (int row = strip.begin - reach; row < strip.end + reach; ++row) {
      if (!shape.has(row)) {
        rows.striped_gradient.clear(row);
        continue;
      }
      for (int c = 0; c < shape.channels; ++c)
        for (int w = 0; w < shape.pitch; w += kLanes) {
          Vec before_gelu = striped.column_bias[c] + striped.column(rows.row_output, row, c, w, false);
          Vec g = load(features_gradient + shape.line(strip.image, row, c) + w);
          if (row >= sum_begin && row < sum_end) g += pooled_gradient[c];
          store(rows.striped_gradient.line(row, c) + w, g * gelu_grad(before_gelu));
        }
      rows.striped_gradient.clear_from(row, shape.width);
    }
  }
};

// x + project([features, low_rank]), where low_rank = from_features(features) * from_context(context + summary), for
// the experts of one image. The chosen experts are concatenated into one expert, whose rank is the sum of their ranks.
// The summary has fewer rows than the context and is interpolated between its rows.
struct LowRankExperts {
  Shape shape;
  Shape summary_shape;
  int first_row, image_height;  // position of the rows in the full image, and its height; see ValidRegion
  int rank;
  Linear from_features, from_context, project;
  Linear from_features_transposed, from_context_transposed, project_transposed;

  // `features` and `context` are the matrices (C, rank) of the first two maps; `project` is (C + rank, C).
  LowRankExperts(Shape shape, Shape summary_shape, int first_row, int image_height, int rank, const float* features,
                 const float* features_bias, const float* context, const float* context_bias, const float* project,
                 const float* project_bias)
      : shape(shape), summary_shape(summary_shape), first_row(first_row), image_height(image_height), rank(rank),
        from_features(shape.channels, rank, features, features_bias),
        from_context(shape.channels, rank, context, context_bias),
        project(shape.channels + rank, shape.channels, project, project_bias),
        from_features_transposed(Linear::transposed(shape.channels, rank, features)),
        from_context_transposed(Linear::transposed(shape.channels, rank, context)),
        project_transposed(Linear::transposed(shape.channels + rank, shape.channels, project)) {}

  // Writes context + summary for one row to row `to_row` of `to`. The interpolation is linear, with half-pixel centres
  // and repeated edges. The summary must have at least one row.
  void calibrate(int image, int row, const float* context, ptrdiff_t stride, const float* summary, RowBuffer& to,
                 int to_row) const {
    double position = (first_row + row + 0.5) * summary_shape.height / image_height - 0.5;  // in rows of the summary
    position = std::clamp(position, 0.0, summary_shape.height - 1.0);
    int above = static_cast<int>(position), below = std::min(above + 1, summary_shape.height - 1);
    float weight = static_cast<float>(position - above);  // of the row below
    for (int c = 0; c < shape.channels; ++c) {
      const float* from = context + c * stride;
      const float* upper = summary + summary_shape.line(image, above, c);
      const float* lower = summary + summary_shape.line(image, below, c);
      for (int w = 0; w < shape.pitch; w += kLanes)
        store(to.line(to_row, c) + w, load(from + w) + (1 - weight) * load(upper + w) + weight * load(lower + w));
    }
  }

  // Computes one row of the result. `calibrated` and `low_rank` are buffers of one row.
  void forward(int image, int row, const float* x, const float* features, ptrdiff_t features_stride,
               const float* context, ptrdiff_t context_stride, const float* summary, RowBuffer& calibrated,
               RowBuffer& low_rank, float* result) const {
    int pitch = shape.pitch;
    size_t line = shape.line(image, row, 0);
    calibrate(image, row, context, context_stride, summary, calibrated, 0);
    from_features.apply(features, features_stride, pitch,
                        [&](int r, int w, Vec v) { store(low_rank.line(0, r) + w, v); });
    from_context.apply(calibrated.line(0, 0), calibrated.stride(), pitch, [&](int r, int w, Vec v) {
      float* at = low_rank.line(0, r) + w;
      store(at, load(at) * v);
    });
    std::vector<const float*> joined;
    for (int c = 0; c < shape.channels; ++c) joined.push_back(features + c * features_stride);
    for (int r = 0; r < rank; ++r) joined.push_back(low_rank.line(0, r));
    project.apply(joined.data(), pitch, [&](int o, int w, Vec v) {
      size_t at = line + o * pitch + w;
      store(result + at, load(x + at) + v);
    });
  }

  // Computes the rows of a strip of the result.
  void forward(const Strip& strip, const float* x, const float* features, const float* context, const float* summary,
               float* result) const {
    Scratch& scratch = Scratch::of_thread();
    int pitch = shape.pitch;
    RowBuffer calibrated(scratch, 0, 1, shape.channels, pitch), low_rank(scratch, 0, 1, rank, pitch);
    for (int row = strip.begin; row < strip.end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      forward(strip.image, row, x, features + line, pitch, context + line, pitch, summary, calibrated, low_rank,
              result);
    }
  }

  // Computes the rows of a strip of the result, with features and context computed from the embedded input.
  void forward(const Strip& strip, const float* x, const FeaturesAndContext& features_and_context,
               const float* embedded, const float* summary, float* result) const {
    Scratch& scratch = Scratch::of_thread();
    int pitch = shape.pitch, channels = shape.channels;
    RowBuffer calibrated(scratch, 0, 1, channels, pitch), low_rank(scratch, 0, 1, rank, pitch);
    RowBuffer features(scratch, 0, 1, channels, pitch);
    RowBuffer context(scratch, strip.begin, features_and_context.striped.reach() + 1, channels, pitch);
    std::vector<float> unused(channels);
    features_and_context.forward(
        strip, embedded, scratch, [&](int, int c) { return features.line(0, c); },
        [&](int row, int c) { return context.line(row, c); }, unused.data(),
        [&](int row) {
          forward(strip.image, row, x, features.line(0, 0), features.stride(), context.line(row, 0), context.stride(),
                  summary, calibrated, low_rank, result);
        });
  }

  // Gradients of the parameters.
  struct Gradients {
    float *from_features, *from_features_bias, *from_context, *from_context_bias, *project, *project_bias;
  };

  // Computes the rows of a strip of the gradients with respect to features and context, and adds the strip's part of
  // the parameters' gradients to `sums`. `gradient` is the gradient with respect to the result. The gradient with
  // respect to x is `gradient` itself, and the one with respect to the resized summary is `context_gradient`.
  void backward(const Strip& strip, const float* features, const float* context, const float* summary,
                const float* gradient, float* features_gradient, float* context_gradient, const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, rows = strip.end - begin;
    RowBuffer calibrated(scratch, begin, rows, channels, pitch), low_rank(scratch, begin, rows, rank, pitch);
    RowBuffer by_features(scratch, begin, rows, rank, pitch), by_context(scratch, begin, rows, rank, pitch);
    for (int row = begin; row < strip.end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      calibrate(strip.image, row, context + line, pitch, summary, calibrated, row);
      from_features.apply(features + line, pitch, pitch,
                          [&](int r, int w, Vec v) { store(by_features.line(row, r) + w, v); });
      from_context.apply(calibrated.line(row, 0), calibrated.stride(), pitch, [&](int r, int w, Vec v) {
        store(by_context.line(row, r) + w, v);
        store(low_rank.line(row, r) + w, v * load(by_features.line(row, r) + w));
      });
      // The buffers of the two factors receive the gradients with respect to them.
      project_transposed.apply(gradient + line, pitch, pitch, [&](int i, int w, Vec v) {
        if (i < channels) {
          store(features_gradient + line + i * pitch + w, v);
        } else {
          float *a = by_features.line(row, i - channels) + w, *b = by_context.line(row, i - channels) + w;
          Vec features_factor = load(a);
          store(a, v * load(b));
          store(b, v * features_factor);
        }
      });
      from_features_transposed.apply(by_features.line(row, 0), by_features.stride(), pitch, [&](int c, int w, Vec v) {
        float* at = features_gradient + line + c * pitch + w;
        store(at, load(at) + v);
      });
      from_context_transposed.apply(by_context.line(row, 0), by_context.stride(), pitch,
                                    [&](int c, int w, Vec v) { store(context_gradient + line + c * pitch + w, v); });
    }
    ptrdiff_t row_stride = shape.row_stride();
    size_t line = shape.line(strip.image, begin, 0);
    RowView feature_rows{features + line, row_stride, pitch}, output{gradient + line, row_stride, pitch};
    RowView features_factor = by_features.view(begin), context_factor = by_context.view(begin);
    add_weight_gradient(feature_rows, channels, output, channels, rows, pitch, sums.project, channels);
    add_weight_gradient(low_rank.view(begin), rank, output, channels, rows, pitch, sums.project + channels * channels,
                        channels);
    add_bias_gradient(output, channels, rows, pitch, sums.project_bias);
    add_weight_gradient(feature_rows, channels, features_factor, rank, rows, pitch, sums.from_features, rank);
    add_bias_gradient(features_factor, rank, rows, pitch, sums.from_features_bias);
    add_weight_gradient(calibrated.view(begin), channels, context_factor, rank, rows, pitch, sums.from_context, rank);
    add_bias_gradient(context_factor, rank, rows, pitch, sums.from_context_bias);
  }
};

// First reduction of the context: a depthwise 4x4 convolution with stride 4. Rows and columns of the input beyond a
// multiple of 4 are unused.
struct Reduction {
  Shape shape;        // shape of the input; the output is (N, H / 4, C, P / 4)
  const float* taps;  // (4, 4, C)

  // Returns the taps of row i of the filter, repeated over a vector of columns.
  Vec pattern(int i, int channel) const {
    Vec v;
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = taps[(4 * i + lane % 4) * shape.channels + channel];
    return v;
  }
  // Returns the shape of the output.
  Shape output_shape() const {
    return {shape.images, shape.rows / 4, shape.channels, shape.pitch / 4, shape.height / 4, shape.width / 4};
  }

  // Computes one row of the output, where row < height / 4. line(row, channel) returns a line of the input, and
  // `products` is a buffer of one line.
  template <class Line>
  void forward(int image, int row, Line&& line, const float* bias, float* products, float* out) const {
    for (int c = 0; c < shape.channels; ++c) {
      Vec filter[4] = {pattern(0, c), pattern(1, c), pattern(2, c), pattern(3, c)};
      const float* lines[4] = {line(4 * row, c), line(4 * row + 1, c), line(4 * row + 2, c), line(4 * row + 3, c)};
      for (int w = 0; w < shape.pitch; w += kLanes) {
        Vec total{};
        for (int i = 0; i < 4; ++i) total += filter[i] * load(lines[i] + w);
        store(products + w, total);
      }
      float* to = out + output_shape().line(image, row, c);
      for (int q = 0; q < shape.width / 4; ++q)
        to[q] = bias[c] + (products[4 * q] + products[4 * q + 1]) + (products[4 * q + 2] + products[4 * q + 3]);
      std::fill(to + shape.width / 4, to + shape.pitch / 4, 0.0f);
    }
  }

  // Computes the four rows of `x_gradient` that belong to one row of the output, where row < height / 4, and adds the
  // row's part of the parameters' gradients to `taps_gradient` (4, 4, C) and `bias_gradient` (C). `gradient` is the
  // gradient with respect to the output.
  void backward(int image, int row, const float* x, const float* gradient, float* x_gradient, float* taps_gradient,
                float* bias_gradient) const {
    float* spread = Scratch::of_thread().take(shape.pitch);
    for (int c = 0; c < shape.channels; ++c) {
      const float* from = gradient + output_shape().line(image, row, c);
      std::fill_n(spread, shape.pitch, 0.0f);
      for (int q = 0; q < shape.width / 4; ++q) {
        bias_gradient[c] += from[q];
        std::fill_n(spread + 4 * q, 4, from[q]);
      }
      for (int i = 0; i < 4; ++i) {
        Vec filter = pattern(i, c), total{};
        size_t line = shape.line(image, 4 * row + i, c);
        for (int w = 0; w < shape.pitch; w += kLanes) {
          Vec g = load(spread + w);
          total += g * load(x + line + w);
          store(x_gradient + line + w, g * filter);
        }
        for (int lane = 0; lane < kLanes; ++lane) taps_gradient[(4 * i + lane % 4) * shape.channels + c] += total[lane];
      }
    }
  }
};

}  // namespace seemore
