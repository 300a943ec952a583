// Compares the functions of vectors, lines and rows with plain loops in double. If a test fails, a function computes
// wrong values, or accesses memory beyond its arrays.

#include <limits>

#include "convolution.h"
#include "gated_feed_forward.h"
#include "mixture.h"
#include "testing.h"

using namespace seemore;

namespace {

double exact_cdf(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }
double exact_gelu_grad(double x) { return exact_cdf(x) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }

void test_load_and_store() {
  for (int misaligned = 0; misaligned < kLanes; ++misaligned) {
    Floats from(kLanes, misaligned), to(kLanes, misaligned);
    store(to, load(from));
    double total = 0;
    for (int i = 0; i < kLanes; ++i) {
      CHECK(to[i] == from[i]);
      total += from[i];
    }
    CHECK_NEAR(sum(load(from)), total, 1e-5);
  }
  Vec v = clamp(load(Floats(kLanes)), -0.5f, 0.25f);
  for (int i = 0; i < kLanes; ++i) CHECK(v[i] >= -0.5f && v[i] <= 0.25f && splat(3)[i] == 3);
}

void test_functions_of_one_variable() {
  const float most = std::numeric_limits<float>::max();
  for (double x = -87; x <= 0; x += 0.01) {
    float v = static_cast<float>(x);
    CHECK_NEAR(exp_of_negative(splat(v))[0] / std::exp(static_cast<double>(v)), 1, 1e-6);
  }
  for (float v : {-87.5f, -1e3f, -most, -std::numeric_limits<float>::infinity()})
    CHECK(exp_of_negative(splat(v))[1] == 0);
  for (double x = -15; x <= 15; x += 0.003) {
    float v = static_cast<float>(x);
    CHECK_NEAR(normal_cdf(splat(v))[0], exact_cdf(v), 3e-7);
    CHECK_NEAR(gelu(splat(v))[1], v * exact_cdf(v), 3e-7 * std::max(1.0, std::fabs(x)));
    CHECK_NEAR(gelu_grad(splat(v))[2], exact_gelu_grad(v), 1e-6);
  }
  for (float v : {50.0f, 1e20f, 1e30f, 1e38f, most}) {
    CHECK(gelu(splat(v))[0] == v && gelu(splat(-v))[0] == 0);
    CHECK(gelu_grad(splat(v))[0] == 1 && gelu_grad(splat(-v))[0] == 0);
  }
  for (float v : {1e-6f, 0.3f, 1.0f, 7e20f}) CHECK_NEAR(inverse_sqrt(splat(v))[3] * std::sqrt(double(v)), 1, 1e-6);
}

void test_strips_cover_the_rows_once() {
  for (int images = 0; images < 3; ++images)
    for (int first = 0; first < 9; first += 4)
      for (int end = 0; end < 30; ++end)
        for (int max_rows = 1; max_rows < 9; ++max_rows)
          for (int multiple : {1, 4}) {
            std::vector<Strip> all = strips(images, first, end, max_rows, multiple);
            int image = 0, row = first;
            for (const Strip& strip : all) {
              CHECK(strip.image == image && strip.begin == row && strip.end > row && strip.end <= end);
              CHECK((strip.begin - first) % multiple == 0);
              CHECK(strip.end - strip.begin <= (max_rows + multiple - 1) / multiple * multiple);
              row = strip.end;
              if (row == end) row = first, ++image;
            }
            CHECK(image == (first < end ? images : 0));
          }
}

void test_rows_are_a_ring() {
  for (int channels : {1, 3})
    for (int count : {1, 3, 5}) {
      const int pitch = 32, first = -2;
      Scratch& scratch = Scratch::of_thread();
      RowBuffer rows(scratch, first, count, channels, pitch);
      for (int row = first; row < first + 3 * count; ++row) {
        CHECK(row < first + count || rows.line(row, 0) == rows.line(row - count, 0));
        for (int c = 0; c < channels; ++c) {
          CHECK(rows.line(row, c) == rows.line(row, 0) + c * rows.stride());
          std::fill_n(rows.line(row, c), pitch, 1.0f + row);
        }
      }
      int last = first + 3 * count - 1;
      for (int row = last - count + 1; row <= last; ++row)
        for (int c = 0; c < channels; ++c) {
          const float* line = rows.line(row, c);
          for (int w = -kMargin; w < pitch + kMargin; ++w) CHECK(line[w] == (w < 0 || w >= pitch ? 0 : 1.0f + row));
        }
      rows.clear_from(last, 20);
      for (int w = 0; w < pitch; ++w) CHECK(rows.line(last, channels - 1)[w] == (w < 20 ? 1.0f + last : 0));
      rows.clear(last);
      CHECK(rows.line(last, 0)[0] == 0);
      CHECK(rows.view(first).data == rows.line(first, 0));
    }
  Scratch& scratch = Scratch::of_thread();
  float *one = scratch.take(10), *other = scratch.take(20);
  CHECK(reinterpret_cast<size_t>(one) % 64 == 0 && one != other);
  CHECK(Scratch::of_thread().take(5) == one);
}

void test_normalize() {
  for (int channels : {1, 2, 5, 10})
    for (int pitch : {16, 48})
      for (int misaligned : {0, 1, 3}) {
        Floats x(channels * pitch, misaligned), out(channels * pitch, misaligned), inverse(pitch, misaligned);
        Floats gradient(channels * pitch, misaligned), x_gradient(channels * pitch, misaligned);
        normalize(x, channels, pitch, out, pitch, inverse);
        normalize_backward(gradient, pitch, out, pitch, inverse, channels, pitch,
                           [&](int c, int w, Vec v) { store(x_gradient + c * pitch + w, v); });
        for (int w = 0; w < pitch; ++w) {
          double mean = 0, variance = 0, gradient_mean = 0, product_mean = 0;
          for (int c = 0; c < channels; ++c) mean += x[c * pitch + w] / channels;
          for (int c = 0; c < channels; ++c) variance += std::pow(x[c * pitch + w] - mean, 2) / channels;
          double scale = 1 / std::sqrt(variance + 1e-6);
          CHECK_NEAR(inverse[w] / scale, 1, 1e-4);
          for (int c = 0; c < channels; ++c) {
            CHECK_NEAR(out[c * pitch + w], (x[c * pitch + w] - mean) * scale, 1e-4);
            gradient_mean += gradient[c * pitch + w] / channels;
            product_mean += gradient[c * pitch + w] * out[c * pitch + w] / channels;
          }
          for (int c = 0; c < channels; ++c)
            CHECK_NEAR(x_gradient[c * pitch + w],
                       (gradient[c * pitch + w] - gradient_mean - out[c * pitch + w] * product_mean) * scale,
                       1e-4 * (1 + scale));
        }
        normalize(x, channels, pitch, out, pitch, nullptr);
      }
}

void test_linear_maps() {
  for (int inputs : {1, 2, 5, 7})
    for (int outputs : {1, 5, 6, 7, 13})
      for (int pitch : {16, 32, 80, 144}) {
        int misaligned = (inputs + outputs) % 4;
        Floats weights(inputs * outputs), bias(outputs), x(inputs * pitch, misaligned), y(outputs * pitch, misaligned);
        Floats back(inputs * pitch);
        const float *taps = weights, *offset = bias;
        Linear(inputs, outputs, taps, offset).apply(x, pitch, pitch, [&](int o, int w, Vec v) {
          store(y + o * pitch + w, v);
        });
        Linear::transposed(inputs, outputs, weights).apply(y, pitch, pitch, [&](int i, int w, Vec v) {
          store(back + i * pitch + w, v);
        });
        for (int w = 0; w < pitch; ++w) {
          for (int o = 0; o < outputs; ++o) {
            double total = bias[o];
            for (int i = 0; i < inputs; ++i) total += double(weights[i * outputs + o]) * x[i * pitch + w];
            CHECK_NEAR(y[o * pitch + w], total, 1e-5 * (1 + inputs));
          }
          for (int i = 0; i < inputs; ++i) {
            double total = 0;
            for (int o = 0; o < outputs; ++o) total += double(weights[i * outputs + o]) * y[o * pitch + w];
            CHECK_NEAR(back[i * pitch + w], total, 1e-4 * (1 + outputs));
          }
        }
      }
}

void test_gradients_of_linear_maps() {
  for (int inputs : {1, 3, 4, 9})
    for (int outputs : {1, 2, 6, 7, 13})
      for (int rows : {1, 3})
        for (int pitch : {16, 48}) {
          int misaligned = (inputs + rows) % 4, gradient_stride = outputs + 2;
          Floats a(rows * inputs * pitch, misaligned), b(rows * outputs * pitch, misaligned);
          Floats gradient((inputs - 1) * gradient_stride + outputs), bias(outputs);
          std::vector<float> before(&gradient[0], &gradient[0] + (inputs - 1) * gradient_stride + outputs);
          std::vector<float> bias_before(&bias[0], &bias[0] + outputs);
          RowView at_a{a, inputs * pitch, pitch}, at_b{b, outputs * pitch, pitch};
          add_weight_gradient(at_a, inputs, at_b, outputs, rows, pitch, gradient, gradient_stride);
          add_bias_gradient(at_b, outputs, rows, pitch, bias);
          for (int o = 0; o < outputs; ++o) {
            double bias_total = bias_before[o];
            for (int r = 0; r < rows; ++r)
              for (int w = 0; w < pitch; ++w) bias_total += b[(r * outputs + o) * pitch + w];
            CHECK_NEAR(bias[o], bias_total, 1e-4);
            for (int i = 0; i < inputs; ++i) {
              double total = before[i * gradient_stride + o];
              for (int r = 0; r < rows; ++r)
                for (int w = 0; w < pitch; ++w)
                  total += double(a[(r * inputs + i) * pitch + w]) * b[(r * outputs + o) * pitch + w];
              CHECK_NEAR(gradient[i * gradient_stride + o], total, 1e-4);
            }
          }
          double total = 0;
          for (int r = 0; r < rows; ++r)
            for (int w = 0; w < pitch; ++w) total += double(a[r * inputs * pitch + w]) * b[r * outputs * pitch + w];
          CHECK_NEAR(correlation(a, inputs * pitch, b, outputs * pitch, rows, pitch), total, 1e-4);
        }
}

// Fills a row with random values, and with zeros in the columns from `width` on.
void fill(RowBuffer& rows, int row, int channels, int pitch, int width) {
  for (int c = 0; c < channels; ++c)
    for (int w = 0; w < pitch; ++w) rows.line(row, c)[w] = random_value();
  rows.clear_from(row, width);
}

void test_depthwise_filters() {
  const int channels = 2, pitch = 32, width = 27;
  for (int length : {1, 3, 11, 33}) {
    int reach = length / 2;
    Floats row_taps(length * channels), row_bias(channels), column_taps(length * channels), column_bias(channels);
    Striped striped{channels, length, row_taps, row_bias, column_taps, column_bias};
    Scratch& scratch = Scratch::of_thread();
    RowBuffer from(scratch, 0, length, channels, pitch), to(scratch, 0, 1, channels, pitch);
    for (int row = 0; row < length; ++row) fill(from, row, channels, pitch, width);
    striped.apply_row(from, 0, to, 0, pitch);
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; ++w) {
        double across = row_bias[c], flipped = 0, down = 0, up = 0;
        for (int t = 0; t < length; ++t) {
          int at = w + t - reach;
          double value = at < 0 || at >= width ? 0 : from.line(0, c)[at];
          across += row_taps[t * channels + c] * value;
          flipped += row_taps[(length - 1 - t) * channels + c] * value;
          down += double(column_taps[t * channels + c]) * from.line(t, c)[w];
          up += double(column_taps[(length - 1 - t) * channels + c]) * from.line(t, c)[w];
        }
        int begin = w / kLanes * kLanes, lane = w % kLanes;
        CHECK_NEAR(to.line(0, c)[w], across, 1e-4);
        CHECK_NEAR(striped.row(from.line(0, c), c, begin, true)[lane], flipped, 1e-4);
        CHECK_NEAR(striped.column(from, reach, c, begin, false)[lane], down, 1e-4);
        CHECK_NEAR(striped.column(from, reach, c, begin, true)[lane], up, 1e-4);
      }
  }
  Floats taps(9 * channels), zeros(2 * channels * channels);
  GatedFeedForward op({1, 1, channels, pitch, 1, width}, zeros, zeros, taps, zeros, zeros, zeros);
  Scratch& scratch = Scratch::of_thread();
  RowBuffer rows(scratch, 0, 3, channels, pitch);
  for (int row = 0; row < 3; ++row) fill(rows, row, channels, pitch, width);
  for (bool flipped : {false, true})
    for (int c = 0; c < channels; ++c)
      for (int w = 0; w < pitch; ++w) {
        double total = 0;
        for (int i = 0; i < 3; ++i)
          for (int j = 0; j < 3; ++j) {
            int at = w + j - 1, tap = 3 * i + j;
            if (at < 0 || at >= width) continue;
            total += double(taps[(flipped ? 8 - tap : tap) * channels + c]) * rows.line(i, c)[at];
          }
        Vec found = op.filter(rows.line(0, c), rows.line(1, c), rows.line(2, c), c, w / kLanes * kLanes, flipped);
        CHECK_NEAR(found[w % kLanes], total, 1e-5);
      }
}

void test_convolution() {
  for (int channels : {1, 3})
    for (int outputs : {1, 7})
      for (int width : {1, 16, 19}) {
        Shape shape{2, 6, channels, (width + 15) / 16 * 16, 5, width};
        int n = shape.images, h = shape.rows, p = shape.pitch;
        Floats x(n * h * channels * p), taps(9 * channels * outputs), bias(outputs), out(n * h * outputs * p);
        Floats gradient(n * h * outputs * p), x_gradient(n * h * channels * p);
        Floats dtaps(9 * channels * outputs), dbias(outputs), none(0);
        for (int i = 0; i < n * h * outputs; ++i) std::fill(gradient + i * p + width, gradient + (i + 1) * p, 0.0f);
        std::fill_n(&dtaps[0], 9 * channels * outputs, 0.0f);
        std::fill_n(&dbias[0], outputs, 0.0f);
        Convolution op(shape, outputs, nullptr, nullptr, taps, bias);
        for (const Strip& strip : strips(shape, 2)) {
          op.forward(strip, x, out);
          op.backward(strip, x, gradient, x_gradient, {none, none, dtaps, dbias});
        }
        auto inside = [&](int r, int w) { return r >= 0 && r < shape.height && w >= 0 && w < width; };
        auto at = [&](int image, int r, int c, int of, int w) { return ((image * h + r) * of + c) * p + w; };
        std::vector<double> taps_total(9 * channels * outputs);
        for (int image = 0; image < n; ++image)
          for (int r = 0; r < shape.height; ++r)
            for (int w = 0; w < width; ++w) {
              for (int o = 0; o < outputs; ++o) {
                double total = bias[o];
                for (int tap = 0; tap < 9; ++tap)
                  for (int c = 0; c < channels; ++c) {
                    int y = r + tap / 3 - 1, z = w + tap % 3 - 1;
                    if (!inside(y, z)) continue;
                    int t = (tap * channels + c) * outputs + o;
                    total += double(taps[t]) * x[at(image, y, c, channels, z)];
                    taps_total[t] += double(gradient[at(image, r, o, outputs, w)]) * x[at(image, y, c, channels, z)];
                  }
                CHECK_NEAR(out[at(image, r, o, outputs, w)], total, 1e-4);
              }
              for (int c = 0; c < channels; ++c) {
                double total = 0;
                for (int tap = 0; tap < 9; ++tap)
                  for (int o = 0; o < outputs; ++o) {
                    int y = r - tap / 3 + 1, z = w - tap % 3 + 1;
                    if (inside(y, z))
                      total += double(taps[(tap * channels + c) * outputs + o]) * gradient[at(image, y, o, outputs, z)];
                  }
                CHECK_NEAR(x_gradient[at(image, r, c, channels, w)], total, 1e-4);
              }
            }
        for (int t = 0; t < 9 * channels * outputs; ++t) CHECK_NEAR(dtaps[t], taps_total[t], 1e-3);
      }
}

void test_reduction() {
  for (int width : {3, 4, 17, 32}) {
    const int channels = 3, n = 2, h = 9;
    Shape shape{n, h, channels, (width + 15) / 16 * 16, h, width};
    int p = shape.pitch, q = p / 4;
    Floats x(n * h * channels * p), taps(16 * channels), bias(channels), out(n * 2 * channels * q), products(p);
    Floats gradient(n * 2 * channels * q), dx(n * h * channels * p), dtaps(16 * channels), dbias(channels);
    std::fill_n(&dtaps[0], 16 * channels, 0.0f);
    std::fill_n(&dbias[0], channels, 0.0f);
    Reduction op{shape, taps};
    std::vector<double> taps_total(16 * channels);
    for (int image = 0; image < n; ++image)
      for (int row = 0; row < 2; ++row) {
        op.forward(image, row, [&](int r, int c) { return x + shape.line(image, r, c); }, bias, products, out);
        op.backward(image, row, x, gradient, dx, dtaps, dbias);
        for (int c = 0; c < channels; ++c)
          for (int w = 0; w < q; ++w) {
            size_t to = op.output_shape().line(image, row, c) + w;
            double total = bias[c];
            for (int i = 0; i < 4 && w < width / 4; ++i)
              for (int j = 0; j < 4; ++j) {
                size_t from = shape.line(image, 4 * row + i, c) + 4 * w + j;
                total += double(taps[(4 * i + j) * channels + c]) * x[from];
                taps_total[(4 * i + j) * channels + c] += double(gradient[to]) * x[from];
                CHECK_NEAR(dx[from], taps[(4 * i + j) * channels + c] * gradient[to], 1e-6);
              }
            CHECK_NEAR(out[to], w < width / 4 ? total : 0, 1e-5);
          }
      }
    for (int t = 0; t < 16 * channels; ++t) CHECK_NEAR(dtaps[t], taps_total[t], 1e-4);
  }
}

}  // namespace

int main() {
  test_load_and_store();
  test_functions_of_one_variable();
  test_strips_cover_the_rows_once();
  test_rows_are_a_ring();
  test_normalize();
  test_linear_maps();
  test_gradients_of_linear_maps();
  test_depthwise_filters();
  test_convolution();
  test_reduction();
  std::printf("%d lanes\n", kLanes);
}
