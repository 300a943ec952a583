// Forward kernels of a rank modulating expert (paper, sections 3.2 and 3.3), and of the dense convolution.

#include "call.h"
#include "convolution.h"
#include "experts.h"
#include "mixture.h"

namespace seemore {

// Computes a dense 3x3 convolution of x, or of the LayerNorm of x if `scale` and `offset` are not empty.
void convolution(const Call& call) {
  auto [x, scale, offset, taps, bias] = call.inputs<5>();
  auto [out] = call.outputs<1>();
  Convolution op = convolution_of(call, x, scale, offset, taps, bias);
  auto work = call.strips(op.shape);
  for_each_task(call.pool, work.size(), [&, x = x, out = out](int i) { op.forward(work[i], x.data, out.data); });
  clear_beyond(op.shape, out);
}

// Computes local features and context of the embedded input x, and the sum of the features over each image.
void features_and_context(const Call& call) {
  auto [x, w, b, row, row_bias, column, column_bias] = call.inputs<7>();
  auto [features, context, pooled] = call.outputs<3>();
  auto op = features_and_context_of(call, x, w, b, row, row_bias, column, column_bias);
  auto work = call.strips(op.shape);
  StripSums sums({pooled}, work, true);
  for_each_task(call.pool, work.size(), [&, x = x, features = features, context = context](int i) {
    auto line = [&](const Array& map) {
      return
          [&op, image = work[i].image, data = map.data](int row, int c) { return data + op.shape.line(image, row, c); };
    };
    op.forward(work[i], x.data, Scratch::of_thread(), line(features), line(context), sums.of(i, 0), [](int) {});
  });
  sums.finish();
  clear_beyond(op.shape, features);
  clear_beyond(op.shape, context);
}

// Computes x + the output of the chosen low-rank experts, with the weights of each image.
void low_rank_experts(const Call& call) {
  auto [x, features, context, summary, wf, bf, wc, bc, wo, bo] = call.inputs<10>();
  auto [out] = call.outputs<1>();
  auto experts = experts_of(call, x, summary, wf, bf, wc, bc, wo, bo);
  auto work = call.strips(experts[0].shape);
  for_each_task(call.pool, work.size(),
                [&, x = x, features = features, context = context, summary = summary, out = out](int i) {
                  experts[work[i].image].forward(work[i], x.data, features.data, context.data, summary.data, out.data);
                });
  clear_beyond(experts[0].shape, out);
}

// Computes the first reduction of the context: a depthwise 4x4 convolution with stride 4.
void reduction(const Call& call) {
  auto [x, taps, bias] = call.inputs<3>();
  auto [out] = call.outputs<1>();
  Reduction op{call.shape(x), taps.data};
  int rows = op.shape.height / 4;
  for_each_task(call.pool, op.shape.images * rows, [&, x = x, bias = bias, out = out](int i) {
    auto line = [&](int row, int c) { return x.data + op.shape.line(i / rows, row, c); };
    float* products = Scratch::of_thread().take(op.shape.pitch);
    op.forward(i / rows, i % rows, line, bias.data, products, out.data);
  });
  clear_beyond(op.output_shape(), out);
}

SEEMORE_KERNEL(convolution, "x[n h c p] scale[c?] offset[c?] taps[9c o] bias[o]", "out[n h o p]");
SEEMORE_KERNEL(features_and_context,
               "x[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] column_bias[c]",
               "features[n h c p] context[n h c p] pooled[n c]");
SEEMORE_KERNEL(low_rank_experts,
               "x[n h c p] features[n h c p] context[n h c p] summary[n s c p] from_features[n c r] "
               "from_features_bias[n r] from_context[n c r] from_context_bias[n r] project[n c+r c] project_bias[n c]",
               "out[n h c p]");
SEEMORE_KERNEL(reduction, "x[n h c p] taps[16 c] bias[c]", "out[n h/4 c p/4]");

}  // namespace seemore
