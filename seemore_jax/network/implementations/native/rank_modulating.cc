// The kernels of a rank modulating expert, and the dense convolution.

#include "call.h"
#include "convolution.h"
#include "experts.h"
#include "mixture.h"

namespace seemore {

void convolution(const Call& call) {
  auto [x, scale, offset, taps, bias] = call.inputs<5>();
  auto [out] = call.outputs<1>();
  Convolution op = convolution_of(call, x, scale, offset, taps, bias);
  auto work = call.strips(op.shape);
  for_each_task(call.pool, work.size(), [&, x = x, out = out](int i) { op.forward(work[i], x.data, out.data); });
  clear_beyond(op.shape, out);
}

void separate(const Call& call, float* features, const Array& context, const Array& pooled) {
  auto [x, w, b, row, row_bias, column, column_bias] = call.inputs<7>();
  FeaturesAndContext op(call.shape(x), call.region.begin, call.region.end, w.data, b.data,
                        striped_of(row, row_bias, column, column_bias));
  auto work = call.strips(op.shape);
  Sums sums({pooled}, work, true);
  for_each_task(call.pool, work.size(),
                [&, x = x](int i) { op.forward(work[i], x.data, features, context.data, sums.of(i, 0)); });
  sums.finish();
  clear_beyond(op.shape, context);
}

void features_and_context(const Call& call) {
  auto [features, context, pooled] = call.outputs<3>();
  separate(call, features.data, context, pooled);
  clear_beyond(call.shape(features), features);
}

// Without the features themselves.
void features_sum_and_context(const Call& call) {
  auto [context, pooled] = call.outputs<2>();
  separate(call, nullptr, context, pooled);
}

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

void reduction(const Call& call) {
  auto [x, taps, bias] = call.inputs<3>();
  auto [out] = call.outputs<1>();
  Reduction op{call.shape(x), taps.data};
  int rows = op.shape.height / 4;
  for_each_task(call.pool, op.shape.images * rows, [&, x = x, bias = bias, out = out](int i) {
    op.forward(i / rows, i % rows, x.data, bias.data, out.data);
  });
  clear_beyond(op.small(), out);
}

SEEMORE_KERNEL(convolution);
SEEMORE_KERNEL(features_and_context);
SEEMORE_KERNEL(features_sum_and_context);
SEEMORE_KERNEL(low_rank_experts);
SEEMORE_KERNEL(reduction);

}  // namespace seemore
