// Forward kernels of a spatial modulating expert (paper, section 3.4), and of the gated feed-forward of both experts.

#include "call.h"
#include "gated_feed_forward.h"
#include "spatial_enhancement.h"

namespace seemore {

// Computes x + GatedFFN(LN(x)). The affine map of LN is part of the weights.
void gated_feed_forward(const Call& call) {
  auto [x, w1, b1, taps, taps_bias, w2, b2] = call.inputs<7>();
  auto [out] = call.outputs<1>();
  GatedFeedForward op(call.shape(x), w1.data, b1.data, taps.data, taps_bias.data, w2.data, b2.data);
  auto work = call.strips(op.shape);
  for_each_task(call.pool, work.size(), [&, x = x, out = out](int i) { op.forward(work[i], x.data, out.data); });
  clear_beyond(op.shape, out);
}

// Computes x + SEE(LN(x)). The affine map of LN is part of the weights.
void spatial_enhancement(const Call& call) {
  auto [x, w1, b1, row, row_bias, column, column_bias, w2, b2] = call.inputs<9>();
  auto [out] = call.outputs<1>();
  SpatialEnhancement op(call.shape(x), w1.data, b1.data, striped_of(row, row_bias, column, column_bias), w2.data,
                        b2.data);
  auto work = call.strips(op.shape);
  for_each_task(call.pool, work.size(), [&, x = x, out = out](int i) { op.forward(work[i], x.data, out.data); });
  clear_beyond(op.shape, out);
}

SEEMORE_KERNEL(gated_feed_forward,
               "x[n h c p] expand[c 2c] expand_bias[2c] taps[9 c] taps_bias[c] project[c c] project_bias[c]",
               "out[n h c p]");
SEEMORE_KERNEL(spatial_enhancement,
               "x[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] column_bias[c] project[c c] "
               "project_bias[c]",
               "out[n h c p]");

}  // namespace seemore
