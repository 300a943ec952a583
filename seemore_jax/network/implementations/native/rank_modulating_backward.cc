// Backward kernels of those in rank_modulating.cc: the gradients with respect to their inputs. dNAME is the gradient
// with respect to NAME.

#include "call.h"
#include "convolution.h"
#include "experts.h"
#include "mixture.h"

namespace seemore {

void convolution_backward(const Call& call) {
  auto [x, scale, offset, taps, bias, gradient] = call.inputs<6>();
  auto [dx, dscale, doffset, dtaps, dbias] = call.outputs<5>();
  Convolution op = convolution_of(call, x, scale, offset, taps, bias);
  auto work = strips(op.shape, kBackwardStripRows);
  StripSums sums({dscale, doffset, dtaps, dbias}, work);
  for_each_task(call.pool, work.size(), [&, x = x, gradient = gradient, dx = dx](int i) {
    op.backward(work[i], x.data, gradient.data, dx.data, {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3)});
  });
  sums.finish();
  clear_beyond(op.shape, dx);
}

void features_and_context_backward(const Call& call) {
  auto [x, w, b, row, row_bias, column, column_bias, dfeatures, dcontext, dpooled] = call.inputs<10>();
  auto [dx, dw, db, drow, drow_bias, dcolumn, dcolumn_bias] = call.outputs<7>();
  auto op = features_and_context_of(call, x, w, b, row, row_bias, column, column_bias);
  auto work = strips(op.shape, kBackwardStripRows);
  StripSums sums({dw, db, drow, drow_bias, dcolumn, dcolumn_bias}, work);
  for_each_task(call.pool, work.size(),
                [&, x = x, dfeatures = dfeatures, dcontext = dcontext, dpooled = dpooled, dx = dx](int i) {
                  op.backward(
                      work[i], x.data, dfeatures.data, dcontext.data, dpooled.data + work[i].image * op.shape.channels,
                      dx.data,
                      {sums.of(i, 0), sums.of(i, 1), {sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)}});
                });
  sums.finish();
  clear_beyond(op.shape, dx);
}

void low_rank_experts_backward(const Call& call) {
  auto [x, features, context, summary, wf, bf, wc, bc, wo, bo, gradient] = call.inputs<11>();
  auto [dfeatures, dcontext, dwf, dbf, dwc, dbc, dwo, dbo] = call.outputs<8>();
  auto experts = experts_of(call, x, summary, wf, bf, wc, bc, wo, bo);
  auto work = strips(experts[0].shape, kBackwardStripRows);
  StripSums sums({dwf, dbf, dwc, dbc, dwo, dbo}, work, true);
  for_each_task(call.pool, work.size(),
                [&, features = features, context = context, summary = summary, gradient = gradient,
                 dfeatures = dfeatures, dcontext = dcontext](int i) {
                  experts[work[i].image].backward(
                      work[i], features.data, context.data, summary.data, gradient.data, dfeatures.data, dcontext.data,
                      {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)});
                });
  sums.finish();
  clear_beyond(experts[0].shape, dfeatures);
  clear_beyond(experts[0].shape, dcontext);
}

void reduction_backward(const Call& call) {
  auto [x, taps, bias, gradient] = call.inputs<4>();
  auto [dx, dtaps, dbias] = call.outputs<3>();
  Reduction op{call.shape(x), taps.data};
  std::fill_n(dx.data, dx.count(), 0.0f);
  auto work = strips(op.output_shape(), kBackwardStripRows / 4);
  StripSums sums({dtaps, dbias}, work);
  for_each_task(call.pool, work.size(), [&, x = x, gradient = gradient, dx = dx](int i) {
    for (int row = work[i].begin; row < work[i].end; ++row)
      op.backward(work[i].image, row, x.data, gradient.data, dx.data, sums.of(i, 0), sums.of(i, 1));
  });
  sums.finish();
}

SEEMORE_KERNEL(convolution_backward, "x[n h c p] scale[c?] offset[c?] taps[9c o] bias[o] gradient[n h o p]",
               "dx[n h c p] dscale[c?] doffset[c?] dtaps[9c o] dbias[o]");
SEEMORE_KERNEL(features_and_context_backward,
               "x[n h c p] expand[c 2c] expand_bias[2c] row[k c] row_bias[c] column[k c] column_bias[c] "
               "dfeatures[n h c p] dcontext[n h c p] dpooled[n c]",
               "dx[n h c p] dexpand[c 2c] dexpand_bias[2c] drow[k c] drow_bias[c] dcolumn[k c] dcolumn_bias[c]");
SEEMORE_KERNEL(low_rank_experts_backward,
               "x[n h c p] features[n h c p] context[n h c p] summary[n s c p] from_features[n c r] "
               "from_features_bias[n r] from_context[n c r] from_context_bias[n r] project[n c+r c] project_bias[n c] "
               "gradient[n h c p]",
               "dfeatures[n h c p] dcontext[n h c p] dfrom_features[n c r] dfrom_features_bias[n r] "
               "dfrom_context[n c r] dfrom_context_bias[n r] dproject[n c+r c] dproject_bias[n c]");
SEEMORE_KERNEL(reduction_backward, "x[n h c p] taps[16 c] bias[c] gradient[n h/4 c p/4]",
               "dx[n h c p] dtaps[16 c] dbias[c]");

}  // namespace seemore
