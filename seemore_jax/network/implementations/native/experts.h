// Constructors of a rank modulating expert's operations from the arrays of a call.
#pragma once

#include "call.h"
#include "convolution.h"
#include "mixture.h"

namespace seemore {

// `scale` and `offset` are those of the LayerNorm before the convolution; they are empty if there is none.
inline Convolution convolution_of(const Call& call, const Array& x, const Array& scale, const Array& offset,
                                  const Array& taps, const Array& bias) {
  bool norm = scale.count() > 0;
  return Convolution(call.shape(x), bias.dim(0), norm ? scale.data : nullptr, norm ? offset.data : nullptr, taps.data,
                     bias.data);
}

inline FeaturesAndContext features_and_context_of(const Call& call, const Array& x, const Array& expand,
                                                  const Array& expand_bias, const Array& row, const Array& row_bias,
                                                  const Array& column, const Array& column_bias) {
  return FeaturesAndContext(call.shape(x), call.region.begin, call.region.end, expand.data, expand_bias.data,
                            striped_of(row, row_bias, column, column_bias));
}

// Makes one LowRankExperts for each image. The arrays are the features' map (`wf`, `bf`), the context's map (`wc`,
// `bc`) and the output map (`wo`, `bo`).
inline std::vector<LowRankExperts> experts_of(const Call& call, const Array& x, const Array& summary, const Array& wf,
                                              const Array& bf, const Array& wc, const Array& bc, const Array& wo,
                                              const Array& bo) {
  Shape shape = call.shape(x), summary_shape = call.shape(summary);
  summary_shape.height = call.region.summary_rows;
  int c = shape.channels, rank = bf.dim(1);
  std::vector<LowRankExperts> all;
  for (size_t n = 0; n < static_cast<size_t>(shape.images); ++n)
    all.emplace_back(shape, summary_shape, call.region.first_row, call.region.image_height, rank,
                     wf.data + n * c * rank, bf.data + n * rank, wc.data + n * c * rank, bc.data + n * rank,
                     wo.data + n * (c + rank) * c, bo.data + n * c);
  return all;
}

}  // namespace seemore
