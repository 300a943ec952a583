// Kernels of a rank modulating expert for images that are computed in strips. Both compute features and context from
// the embedded input, so that no whole feature map of either is in memory.

#include "call.h"
#include "experts.h"
#include "mixture.h"

namespace seemore {

// Computes the sum of the features, and the context after its first reduction, from the embedded input. The first row
// to compute must be a multiple of 4, because four rows of the context become one.
void global_statistics(const Call& call) {
  auto [x, w, b, row, row_bias, column, column_bias, taps, bias] = call.inputs<9>();
  auto [pooled, reduced] = call.outputs<2>();
  auto op = features_and_context_of(call, x, w, b, row, row_bias, column, column_bias);
  Reduction reduction{op.shape, taps.data};
  if (call.region.compute_begin % 4) throw std::invalid_argument("region must have a multiple of 4 as compute_begin");
  auto work = call.strips(op.shape, 4);
  StripSums sums({pooled}, work, true);
  for_each_task(call.pool, work.size(), [&, x = x, bias = bias, reduced = reduced](int i) {
    Scratch& scratch = Scratch::of_thread();
    int channels = op.shape.channels, pitch = op.shape.pitch, image = work[i].image;
    RowBuffer features(scratch, 0, 1, channels, pitch);
    RowBuffer context(scratch, work[i].begin, 4 + op.striped.reach(), channels, pitch);
    float* products = scratch.take(pitch);
    auto line = [&](int row, int c) { return context.line(row, c); };
    op.forward(
        work[i], x.data, scratch, [&](int, int c) { return features.line(0, c); }, line, sums.of(i, 0),
        [&](int row) {
          if (row % 4 == 3) reduction.forward(image, row / 4, line, bias.data, products, reduced.data);
        });
  });
  sums.finish();
}

// Computes `low_rank_experts`, with features and context computed from the embedded input.
void low_rank_experts_of_embedded(const Call& call) {
  auto [x, embedded, w, b, row, row_bias, column, column_bias, summary, wf, bf, wc, bc, wo, bo] = call.inputs<15>();
  auto [out] = call.outputs<1>();
  auto features_and_context = features_and_context_of(call, embedded, w, b, row, row_bias, column, column_bias);
  auto experts = experts_of(call, x, summary, wf, bf, wc, bc, wo, bo);
  auto work = call.strips(features_and_context.shape);
  for_each_task(call.pool, work.size(), [&, x = x, embedded = embedded, summary = summary, out = out](int i) {
    experts[work[i].image].forward(work[i], x.data, features_and_context, embedded.data, summary.data, out.data);
  });
  clear_beyond(features_and_context.shape, out);
}

SEEMORE_KERNEL(global_statistics,
               "x[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] column_bias[c] "
               "taps[16 c] bias[c]",
               "pooled[n c] reduced[n h/4 c p/4]");
SEEMORE_KERNEL(low_rank_experts_of_embedded,
               "x[n h c p] embedded[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] "
               "column_bias[c] summary[n s c p] from_features[n c r] from_features_bias[n r] from_context[n c r] "
               "from_context_bias[n r] project[n c+r c] project_bias[n c]",
               "out[n h c p]");

}  // namespace seemore
