// The two sides of the mixture of low-rank experts: what it is given, and the experts that the router chose.
#pragma once

#include "spatial_enhancement.h"

namespace seemore {

// From the embedded input: features = GELU(striped(first half)) and context = second half of expand(GELU(input)).
struct FeaturesAndContext {
  Shape shape;
  int begin, end;  // rows that count in the sum of the features
  Striped striped;
  Linear expanding, unexpanding;

  FeaturesAndContext(Shape shape, int begin, int end, const float* expand, const float* expand_bias, Striped striped)
      : shape(shape), begin(begin), end(end), striped(striped),
        expanding(shape.channels, 2 * shape.channels, expand, expand_bias),
        unexpanding(Linear::transposed(shape.channels, 2 * shape.channels, expand)) {}

  // Writes a strip's rows to lines that `features` and `context` give for (row, channel), and calls done(row) when both
  // are there; the context is ahead by reach() rows. `pooled` gets the sum of the features that count.
  template <class Line, class OtherLine, class Done>
  void forward(const Strip& strip, const float* x, Scratch& scratch, Line&& features, OtherLine&& context,
               float* pooled, Done&& done) const {
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach(), first = strip.begin - reach;
    Rows input(scratch, 0, 1, channels, pitch), local(scratch, 0, 1, channels, pitch);
    Rows between(scratch, first, 2 * reach + 1, channels, pitch);
    for (int ahead = first; ahead < strip.end + reach; ++ahead) {
      if (shape.has(ahead)) {
        const float* from = x + shape.line(strip.image, ahead, 0);
        bool mine = ahead >= strip.begin && ahead < strip.end;
        for (int c = 0; c < channels; ++c)
          for (int w = 0; w < pitch; w += kLanes) store(input.line(0, c) + w, gelu(load(from + c * pitch + w)));
        expanding.apply(input.line(0, 0), input.stride(), pitch, [&](int o, int w, Vec v) {
          if (o < channels)
            store(local.line(0, o) + w, v);
          else if (mine)
            store(context(ahead, o - channels) + w, v);
        });
        local.clear_from(0, shape.width);
        striped.apply_row(local, 0, between, ahead, pitch);
      } else {
        between.clear(ahead);
      }
      int row = ahead - reach;
      if (row < strip.begin) continue;
      for (int c = 0; c < channels; ++c) {
        float* to = features(row, c);
        for (int w = 0; w < pitch; w += kLanes)
          store(to + w, gelu(striped.column_bias[c] + striped.column(between, row, c, w, false)));
        std::fill(to + shape.width, to + pitch, 0.0f);
        if (row < begin || row >= end) continue;
        Vec total{};
        for (int w = 0; w < pitch; w += kLanes) total += load(to + w);
        pooled[c] += sum(total);
      }
      done(row);
    }
  }

  struct Gradients {
    float *expand, *expand_bias;
    Striped::Gradients striped;
  };

  // `pooled_gradient` is towards the sum of the image's features.
  void backward(const Strip& strip, const float* x, const float* features_gradient, const float* context_gradient,
                const float* pooled_gradient, float* x_gradient, const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, reach = striped.reach();
    int begin = strip.begin, end = strip.end, rows = end - begin, first = begin - 2 * reach, all = rows + 4 * reach;
    Rows input(scratch, first, all, channels, pitch), local(scratch, first, all, channels, pitch);
    Rows between(scratch, first, all, channels, pitch);
    Rows local_gradient(scratch, begin, rows, 2 * channels, pitch);  // then that of the context
    Rows between_gradient(scratch, begin, rows, channels, pitch);
    Rows striped_gradient(scratch, begin - reach, rows + 2 * reach, channels, pitch);
    for (int row = first; row < end + 2 * reach; ++row) {
      if (!shape.has(row)) {
        between.clear(row);
        continue;
      }
      const float* from = x + shape.line(strip.image, row, 0);
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) store(input.line(row, c) + w, gelu(load(from + c * pitch + w)));
      expanding.apply(input.line(row, 0), input.stride(), pitch, [&](int o, int w, Vec v) {
        if (o < channels) store(local.line(row, o) + w, v);
      });
      local.clear_from(row, shape.width);
      striped.apply_row(local, row, between, row, pitch);
    }
    for (int row = begin - reach; row < end + reach; ++row) {
      if (!shape.has(row)) {
        striped_gradient.clear(row);
        continue;
      }
      for (int c = 0; c < channels; ++c)
        for (int w = 0; w < pitch; w += kLanes) {
          Vec ahead = striped.column_bias[c] + striped.column(between, row, c, w, false);
          Vec g = load(features_gradient + shape.line(strip.image, row, c) + w);
          if (row >= this->begin && row < this->end) g += pooled_gradient[c];
          store(striped_gradient.line(row, c) + w, g * gelu_grad(ahead));
        }
      striped_gradient.clear_from(row, shape.width);
    }
    for (int row = begin; row < end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      for (int c = 0; c < channels; ++c) {
        for (int w = 0; w < pitch; w += kLanes)
          store(between_gradient.line(row, c) + w, striped.column(striped_gradient, row, c, w, true));
        for (int w = 0; w < pitch; w += kLanes)
          store(local_gradient.line(row, c) + w, striped.row(between_gradient.line(row, c), c, w, true));
        std::copy_n(context_gradient + line + c * pitch, pitch, local_gradient.line(row, channels + c));
      }
      local_gradient.clear_from(row, shape.width);
      unexpanding.apply(local_gradient.line(row, 0), local_gradient.stride(), pitch, [&](int c, int w, Vec v) {
        size_t at = line + c * pitch + w;
        store(x_gradient + at, v * gelu_grad(load(x + at)));
      });
    }
    Block at_local = local_gradient.from(begin);
    add_weight_gradient(input.from(begin), channels, at_local, 2 * channels, rows, pitch, sums.expand, 2 * channels);
    add_bias_gradient(at_local, 2 * channels, rows, pitch, sums.expand_bias);
    striped.add_gradients(local, between, between_gradient, striped_gradient, begin, rows, pitch, sums.striped);
  }
};

// x + out([features; low rank]), low rank = from_features(features) * from_context(context + summary), with one
// image's weights. The summary has fewer rows, between which it is interpolated.
struct LowRankExperts {
  Shape shape;
  Shape summary_shape;
  int first_row, image_height;  // where the rows are in the image of which the summary is
  int rank;
  Linear from_features, from_context, out, unfrom_features, unfrom_context, unout;

  LowRankExperts(Shape shape, Shape summary_shape, int first_row, int image_height, int rank, const float* features,
                 const float* features_bias, const float* context, const float* context_bias, const float* out,
                 const float* out_bias)
      : shape(shape), summary_shape(summary_shape), first_row(first_row), image_height(image_height), rank(rank),
        from_features(shape.channels, rank, features, features_bias),
        from_context(shape.channels, rank, context, context_bias),
        out(shape.channels + rank, shape.channels, out, out_bias),
        unfrom_features(Linear::transposed(shape.channels, rank, features)),
        unfrom_context(Linear::transposed(shape.channels, rank, context)),
        unout(Linear::transposed(shape.channels + rank, shape.channels, out)) {}

  // context + summary of one row; half-pixel centres, edges repeated. The summary has a row.
  void calibrate(int image, int row, const float* context, ptrdiff_t stride, const float* summary, Rows& to,
                 int to_row) const {
    const Shape& small = summary_shape;
    double position = (first_row + row + 0.5) * small.height / image_height - 0.5;
    position = std::clamp(position, 0.0, small.height - 1.0);
    int above = static_cast<int>(position), below = std::min(above + 1, small.height - 1);
    float share = static_cast<float>(position - above);
    for (int c = 0; c < shape.channels; ++c) {
      const float* from = context + c * stride;
      const float *upper = summary + small.line(image, above, c), *lower = summary + small.line(image, below, c);
      for (int w = 0; w < shape.pitch; w += kLanes)
        store(to.line(to_row, c) + w, load(from + w) + (1 - share) * load(upper + w) + share * load(lower + w));
    }
  }

  // One row of the result, from lines of features and context that are `stride` apart.
  void forward(int image, int row, const float* x, const float* features, ptrdiff_t features_stride,
               const float* context, ptrdiff_t context_stride, const float* summary, Rows& calibrated, Rows& low_rank,
               float* result) const {
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
    out.apply(joined.data(), pitch, [&](int o, int w, Vec v) {
      size_t at = line + o * pitch + w;
      store(result + at, load(x + at) + v);
    });
  }

  void forward(const Strip& strip, const float* x, const float* features, const float* context, const float* summary,
               float* result) const {
    Scratch& scratch = Scratch::of_thread();
    int pitch = shape.pitch;
    Rows calibrated(scratch, 0, 1, shape.channels, pitch), low_rank(scratch, 0, 1, rank, pitch);
    for (int row = strip.begin; row < strip.end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      forward(strip.image, row, x, features + line, pitch, context + line, pitch, summary, calibrated, low_rank,
              result);
    }
  }

  // With features and context that `separate` makes from the embedded input.
  void forward(const Strip& strip, const float* x, const FeaturesAndContext& separate, const float* embedded,
               const float* summary, float* result) const {
    Scratch& scratch = Scratch::of_thread();
    int pitch = shape.pitch, channels = shape.channels;
    Rows calibrated(scratch, 0, 1, channels, pitch), low_rank(scratch, 0, 1, rank, pitch);
    Rows features(scratch, 0, 1, channels, pitch);
    Rows context(scratch, strip.begin, separate.striped.reach() + 1, channels, pitch);
    std::vector<float> unused(channels);
    separate.forward(
        strip, embedded, scratch, [&](int, int c) { return features.line(0, c); },
        [&](int row, int c) { return context.line(row, c); }, unused.data(),
        [&](int row) {
          forward(strip.image, row, x, features.line(0, 0), features.stride(), context.line(row, 0), context.stride(),
                  summary, calibrated, low_rank, result);
        });
  }

  struct Gradients {
    float *from_features, *from_features_bias, *from_context, *from_context_bias, *out, *out_bias;
  };

  void backward(const Strip& strip, const float* features, const float* context, const float* summary,
                const float* gradient, float* features_gradient, float* context_gradient, const Gradients& sums) const {
    Scratch& scratch = Scratch::of_thread();
    int channels = shape.channels, pitch = shape.pitch, begin = strip.begin, rows = strip.end - begin;
    Rows calibrated(scratch, begin, rows, channels, pitch), low_rank(scratch, begin, rows, rank, pitch);
    Rows by_features(scratch, begin, rows, rank, pitch), by_context(scratch, begin, rows, rank, pitch);
    for (int row = begin; row < strip.end; ++row) {
      size_t line = shape.line(strip.image, row, 0);
      calibrate(strip.image, row, context + line, pitch, summary, calibrated, row);
      from_features.apply(features + line, pitch, pitch,
                          [&](int r, int w, Vec v) { store(by_features.line(row, r) + w, v); });
      from_context.apply(calibrated.line(row, 0), calibrated.stride(), pitch, [&](int r, int w, Vec v) {
        store(by_context.line(row, r) + w, v);
        store(low_rank.line(row, r) + w, v * load(by_features.line(row, r) + w));
      });
      // The two factors' places take the gradients towards them.
      unout.apply(gradient + line, pitch, pitch, [&](int i, int w, Vec v) {
        if (i < channels) {
          store(features_gradient + line + i * pitch + w, v);
        } else {
          float *a = by_features.line(row, i - channels) + w, *b = by_context.line(row, i - channels) + w;
          Vec factor = load(a);
          store(a, v * load(b));
          store(b, v * factor);
        }
      });
      unfrom_features.apply(by_features.line(row, 0), by_features.stride(), pitch, [&](int c, int w, Vec v) {
        float* at = features_gradient + line + c * pitch + w;
        store(at, load(at) + v);
      });
      unfrom_context.apply(by_context.line(row, 0), by_context.stride(), pitch,
                           [&](int c, int w, Vec v) { store(context_gradient + line + c * pitch + w, v); });
    }
    ptrdiff_t row_stride = shape.row_stride();
    size_t line = shape.line(strip.image, begin, 0);
    Block at_features{features + line, row_stride, pitch}, at_output{gradient + line, row_stride, pitch};
    Block at_low_rank = low_rank.from(begin);
    Block at_context = calibrated.from(begin);
    Block to_features = by_features.from(begin);
    Block to_context = by_context.from(begin);
    add_weight_gradient(at_features, channels, at_output, channels, rows, pitch, sums.out, channels);
    add_weight_gradient(at_low_rank, rank, at_output, channels, rows, pitch, sums.out + channels * channels, channels);
    add_bias_gradient(at_output, channels, rows, pitch, sums.out_bias);
    add_weight_gradient(at_features, channels, to_features, rank, rows, pitch, sums.from_features, rank);
    add_bias_gradient(to_features, rank, rows, pitch, sums.from_features_bias);
    add_weight_gradient(at_context, channels, to_context, rank, rows, pitch, sums.from_context, rank);
    add_bias_gradient(to_context, rank, rows, pitch, sums.from_context_bias);
  }
};

// The context's first reduction: a depthwise 4x4 filter at stride 4. Rows and columns that fill no window are unused.
struct Reduction {
  Shape shape;        // of the input; the output is (N, H / 4, C, P / 4)
  const float* taps;  // (4, 4, C)

  // The taps of filter row i along a vector of columns.
  Vec pattern(int i, int channel) const {
    Vec v;
    for (int lane = 0; lane < kLanes; ++lane) v[lane] = taps[(4 * i + lane % 4) * shape.channels + channel];
    return v;
  }
  // Of the output.
  Shape small() const {
    return {shape.images, shape.rows / 4, shape.channels, shape.pitch / 4, shape.height / 4, shape.width / 4};
  }

  // Computes one row of the output, where row < height / 4. `line` returns the input's line for (row, channel), and
  // `products` has room for one line.
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
      float* to = out + small().line(image, row, c);
      for (int q = 0; q < shape.width / 4; ++q)
        to[q] = bias[c] + (products[4 * q] + products[4 * q + 1]) + (products[4 * q + 2] + products[4 * q + 3]);
      std::fill(to + shape.width / 4, to + shape.pitch / 4, 0.0f);
    }
  }

  // Four rows of the input's gradient, row < height / 4; `taps_gradient` is (4, 4, C).
  void backward(int image, int row, const float* x, const float* gradient, float* x_gradient, float* taps_gradient,
                float* bias_gradient) const {
    float* spread = Scratch::of_thread().take(shape.pitch);
    for (int c = 0; c < shape.channels; ++c) {
      const float* from = gradient + small().line(image, row, c);
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
