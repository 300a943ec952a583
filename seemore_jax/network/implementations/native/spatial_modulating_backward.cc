// Backward kernels of those in spatial_modulating.cc: the gradients with respect to their inputs. dNAME is the gradient
// with respect to NAME.

#include "call.h"
#include "gated_feed_forward.h"
#include "spatial_enhancement.h"

namespace seemore {

void gated_feed_forward_backward(const Call& call) {
  auto [x, w1, b1, taps, taps_bias, w2, b2, gradient] = call.inputs<8>();
  auto [dx, dw1, db1, dtaps, dtaps_bias, dw2, db2] = call.outputs<7>();
  GatedFeedForward op(call.shape(x), w1.data, b1.data, taps.data, taps_bias.data, w2.data, b2.data);
  auto work = strips(op.shape, kBackwardStripRows);
  StripSums sums({dw1, db1, dtaps, dtaps_bias, dw2, db2}, work);
  for_each_task(call.pool, work.size(), [&, x = x, gradient = gradient, dx = dx](int i) {
    op.backward(work[i], x.data, gradient.data, dx.data,
                {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)});
  });
  sums.finish();
  clear_beyond(op.shape, dx);
}

void spatial_enhancement_backward(const Call& call) {
  auto [x, w1, b1, row, row_bias, column, column_bias, w2, b2, gradient] = call.inputs<10>();
  auto [dx, dw1, db1, drow, drow_bias, dcolumn, dcolumn_bias, dw2, db2] = call.outputs<9>();
  SpatialEnhancement op(call.shape(x), w1.data, b1.data, striped_of(row, row_bias, column, column_bias), w2.data,
                        b2.data);
  auto work = strips(op.shape, kBackwardStripRows);
  StripSums sums({dw1, db1, drow, drow_bias, dcolumn, dcolumn_bias, dw2, db2}, work);
  for_each_task(call.pool, work.size(), [&, x = x, gradient = gradient, dx = dx](int i) {
    op.backward(work[i], x.data, gradient.data, dx.data,
                {sums.of(i, 0),
                 sums.of(i, 1),
                 {sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)},
                 sums.of(i, 6),
                 sums.of(i, 7)});
  });
  sums.finish();
  clear_beyond(op.shape, dx);
}

SEEMORE_KERNEL(gated_feed_forward_backward,
               "x[n h c p] expand[c 2c] expand_bias[2c] taps[9 c] taps_bias[c] project[c c] project_bias[c] "
               "gradient[n h c p]",
               "dx[n h c p] dexpand[c 2c] dexpand_bias[2c] dtaps[9 c] dtaps_bias[c] dproject[c c] dproject_bias[c]");
SEEMORE_KERNEL(spatial_enhancement_backward,
               "x[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] column_bias[c] project[c c] "
               "project_bias[c] gradient[n h c p]",
               "dx[n h c p] dexpand[c 2c] dexpand_bias[2c] drow[k c] drow_bias[c] dcolumn[k c] dcolumn_bias[c] "
               "dproject[c c] dproject_bias[c]");

}  // namespace seemore
