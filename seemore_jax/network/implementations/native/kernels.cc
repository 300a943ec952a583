// The operations as XLA calls them. The symbols at the end are registered by `native/__init__.py`.

#include <numeric>

#include "convolution.h"
#include "gated_feed_forward.h"
#include "mixture.h"
#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace seemore {
namespace {

namespace ffi = xla::ffi;
using In = ffi::Buffer<ffi::F32>;
using Out = ffi::Result<ffi::Buffer<ffi::F32>>;

constexpr int kForwardRows = 48;   // of a strip: the rows at its edges are computed twice
constexpr int kBackwardRows = 32;  // whole strips are kept in scratch memory

Shape shape_of(const In& map, int64_t width) {
  auto d = map.dimensions();
  return {static_cast<int>(d[0]), static_cast<int>(d[1]), static_cast<int>(d[2]), static_cast<int>(d[3]),
          static_cast<int>(width)};
}

Striped striped_of(const In& row, const In& row_bias, const In& column, const In& column_bias) {
  auto d = row.dimensions();
  return {static_cast<int>(d[1]),   static_cast<int>(d[0]),   row.typed_data(),
          row_bias.typed_data(), column.typed_data(), column_bias.typed_data()};
}

// Arrays that several strips add to: each strip adds to a copy of its own, and the copies are added in order.
class Sums {
 public:
  // With `per_image`, the arrays' first axis is the image's, and a strip has only its image's part.
  Sums(std::vector<Out*> outputs, const std::vector<Strip>& strips, bool per_image = false)
      : outputs_(std::move(outputs)), strips_(strips), images_(per_image ? strips.back().image + 1 : 1) {
    for (Out* output : outputs_) {
      begins_.push_back(size_);
      size_ += (*output)->element_count() / images_;
    }
    copies_.assign(strips.size() * size_, 0.0f);
  }
  float* of(int strip, int output) { return copies_.data() + strip * size_ + begins_[output]; }
  void finish() {
    for (size_t k = 0; k < outputs_.size(); ++k) {
      size_t count = (*outputs_[k])->element_count() / images_;
      float* data = (*outputs_[k])->typed_data();
      std::fill_n(data, count * images_, 0.0f);
      for (size_t s = 0; s < strips_.size(); ++s) {
        float* to = data + (images_ == 1 ? 0 : strips_[s].image * count);
        const float* from = of(s, k);
        for (size_t i = 0; i < count; ++i) to[i] += from[i];
      }
    }
  }

 private:
  std::vector<Out*> outputs_;
  const std::vector<Strip>& strips_;
  size_t images_, size_ = 0;
  std::vector<size_t> begins_;
  std::vector<float> copies_;
};

ffi::Error gated_feed_forward(ffi::ThreadPool pool, int64_t width, In x, In w1, In b1, In taps, In taps_bias, In w2,
                              In b2, Out out) {
  GatedFeedForward op(shape_of(x, width), w1.typed_data(), b1.typed_data(), taps.typed_data(), taps_bias.typed_data(),
                      w2.typed_data(), b2.typed_data());
  auto work = strips(op.shape, kForwardRows);
  for_each_task(pool, work.size(), [&](int i) { op.forward(work[i], x.typed_data(), out->typed_data()); });
  return ffi::Error::Success();
}

ffi::Error gated_feed_forward_backward(ffi::ThreadPool pool, int64_t width, In x, In w1, In b1, In taps, In taps_bias,
                                       In w2, In b2, In gradient, Out dx, Out dw1, Out db1, Out dtaps, Out dtaps_bias,
                                       Out dw2, Out db2) {
  GatedFeedForward op(shape_of(x, width), w1.typed_data(), b1.typed_data(), taps.typed_data(), taps_bias.typed_data(),
                      w2.typed_data(), b2.typed_data());
  auto work = strips(op.shape, kBackwardRows);
  Sums sums({&dw1, &db1, &dtaps, &dtaps_bias, &dw2, &db2}, work);
  for_each_task(pool, work.size(), [&](int i) {
    op.backward(work[i], x.typed_data(), gradient.typed_data(), dx->typed_data(),
                {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)});
  });
  sums.finish();
  return ffi::Error::Success();
}

ffi::Error spatial_enhancement(ffi::ThreadPool pool, int64_t width, In x, In w1, In b1, In row, In row_bias, In column,
                               In column_bias, In w2, In b2, Out out) {
  SpatialEnhancement op(shape_of(x, width), w1.typed_data(), b1.typed_data(),
                        striped_of(row, row_bias, column, column_bias), w2.typed_data(), b2.typed_data());
  auto work = strips(op.shape, kForwardRows);
  for_each_task(pool, work.size(), [&](int i) { op.forward(work[i], x.typed_data(), out->typed_data()); });
  return ffi::Error::Success();
}

ffi::Error spatial_enhancement_backward(ffi::ThreadPool pool, int64_t width, In x, In w1, In b1, In row, In row_bias,
                                        In column, In column_bias, In w2, In b2, In gradient, Out dx, Out dw1,
                                        Out db1, Out drow, Out drow_bias, Out dcolumn, Out dcolumn_bias, Out dw2,
                                        Out db2) {
  SpatialEnhancement op(shape_of(x, width), w1.typed_data(), b1.typed_data(),
                        striped_of(row, row_bias, column, column_bias), w2.typed_data(), b2.typed_data());
  auto work = strips(op.shape, kBackwardRows);
  Sums sums({&dw1, &db1, &drow, &drow_bias, &dcolumn, &dcolumn_bias, &dw2, &db2}, work);
  for_each_task(pool, work.size(), [&](int i) {
    op.backward(work[i], x.typed_data(), gradient.typed_data(), dx->typed_data(),
                {sums.of(i, 0),
                 sums.of(i, 1),
                 {sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)},
                 sums.of(i, 6),
                 sums.of(i, 7)});
  });
  sums.finish();
  return ffi::Error::Success();
}

// `scale` and `offset` of the LayerNorm are empty where there is none.
Convolution convolution_of(const In& x, int64_t width, const In& scale, const In& offset, const In& taps,
                           const In& bias) {
  bool norm = scale.element_count() > 0;
  return Convolution(shape_of(x, width), bias.element_count(), norm ? scale.typed_data() : nullptr,
                     norm ? offset.typed_data() : nullptr, taps.typed_data(), bias.typed_data());
}

ffi::Error convolution(ffi::ThreadPool pool, int64_t width, In x, In scale, In offset, In taps, In bias, Out out) {
  Convolution op = convolution_of(x, width, scale, offset, taps, bias);
  auto work = strips(op.shape, kForwardRows);
  for_each_task(pool, work.size(), [&](int i) { op.forward(work[i], x.typed_data(), out->typed_data()); });
  return ffi::Error::Success();
}

ffi::Error convolution_backward(ffi::ThreadPool pool, int64_t width, In x, In scale, In offset, In taps, In bias,
                                In gradient, Out dx, Out dscale, Out doffset, Out dtaps, Out dbias) {
  Convolution op = convolution_of(x, width, scale, offset, taps, bias);
  auto work = strips(op.shape, kBackwardRows);
  Sums sums({&dscale, &doffset, &dtaps, &dbias}, work);
  for_each_task(pool, work.size(), [&](int i) {
    op.backward(work[i], x.typed_data(), gradient.typed_data(), dx->typed_data(),
                {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3)});
  });
  sums.finish();
  return ffi::Error::Success();
}

ffi::Error features_and_context(ffi::ThreadPool pool, int64_t width, In x, In w, In b, In row, In row_bias, In column,
                                In column_bias, Out features, Out context, Out pooled) {
  FeaturesAndContext op(shape_of(x, width), w.typed_data(), b.typed_data(),
                        striped_of(row, row_bias, column, column_bias));
  auto work = strips(op.shape, kForwardRows);
  Sums sums({&pooled}, work, true);
  for_each_task(pool, work.size(), [&](int i) {
    op.forward(work[i], x.typed_data(), features->typed_data(), context->typed_data(), sums.of(i, 0));
  });
  sums.finish();
  return ffi::Error::Success();
}

ffi::Error features_and_context_backward(ffi::ThreadPool pool, int64_t width, In x, In w, In b, In row, In row_bias,
                                         In column, In column_bias, In dfeatures, In dcontext, In dpooled, Out dx,
                                         Out dw, Out db, Out drow, Out drow_bias, Out dcolumn, Out dcolumn_bias) {
  FeaturesAndContext op(shape_of(x, width), w.typed_data(), b.typed_data(),
                        striped_of(row, row_bias, column, column_bias));
  auto work = strips(op.shape, kBackwardRows);
  Sums sums({&dw, &db, &drow, &drow_bias, &dcolumn, &dcolumn_bias}, work);
  for_each_task(pool, work.size(), [&](int i) {
    op.backward(work[i], x.typed_data(), dfeatures.typed_data(), dcontext.typed_data(),
                dpooled.typed_data() + work[i].image * op.shape.channels, dx->typed_data(),
                {sums.of(i, 0), sums.of(i, 1), {sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)}});
  });
  sums.finish();
  return ffi::Error::Success();
}

// The experts of each image.
std::vector<LowRankExperts> experts_of(const In& x, int64_t width, const In& summary, const In& wf, const In& bf,
                                       const In& wc, const In& bc, const In& wo, const In& bo) {
  Shape shape = shape_of(x, width);
  int c = shape.channels, rank = bf.dimensions()[1];
  std::vector<LowRankExperts> all;
  for (int n = 0; n < shape.images; ++n)
    all.emplace_back(shape, rank, static_cast<int>(summary.dimensions()[1]), wf.typed_data() + n * c * rank,
                     bf.typed_data() + n * rank, wc.typed_data() + n * c * rank, bc.typed_data() + n * rank,
                     wo.typed_data() + n * (c + rank) * c, bo.typed_data() + n * c);
  return all;
}

ffi::Error low_rank_experts(ffi::ThreadPool pool, int64_t width, In x, In features, In context, In summary, In wf,
                            In bf, In wc, In bc, In wo, In bo, Out out) {
  auto experts = experts_of(x, width, summary, wf, bf, wc, bc, wo, bo);
  auto work = strips(experts[0].shape, kForwardRows);
  for_each_task(pool, work.size(), [&](int i) {
    experts[work[i].image].forward(work[i], x.typed_data(), features.typed_data(), context.typed_data(),
                                   summary.typed_data(), out->typed_data());
  });
  return ffi::Error::Success();
}

ffi::Error low_rank_experts_backward(ffi::ThreadPool pool, int64_t width, In x, In features, In context, In summary,
                                     In wf, In bf, In wc, In bc, In wo, In bo, In gradient, Out dfeatures,
                                     Out dcontext, Out dwf, Out dbf, Out dwc, Out dbc, Out dwo, Out dbo) {
  auto experts = experts_of(x, width, summary, wf, bf, wc, bc, wo, bo);
  auto work = strips(experts[0].shape, kBackwardRows);
  Sums sums({&dwf, &dbf, &dwc, &dbc, &dwo, &dbo}, work, true);
  for_each_task(pool, work.size(), [&](int i) {
    experts[work[i].image].backward(
        work[i], features.typed_data(), context.typed_data(), summary.typed_data(), gradient.typed_data(),
        dfeatures->typed_data(), dcontext->typed_data(),
        {sums.of(i, 0), sums.of(i, 1), sums.of(i, 2), sums.of(i, 3), sums.of(i, 4), sums.of(i, 5)});
  });
  sums.finish();
  return ffi::Error::Success();
}

ffi::Error reduction(ffi::ThreadPool pool, int64_t width, In x, In taps, In bias, Out out) {
  Reduction op{shape_of(x, width), taps.typed_data()};
  int rows = op.shape.height / 4;
  for_each_task(pool, op.shape.images * rows, [&](int i) {
    op.forward(i / rows, i % rows, x.typed_data(), bias.typed_data(), out->typed_data());
  });
  return ffi::Error::Success();
}

ffi::Error reduction_backward(ffi::ThreadPool pool, int64_t width, In x, In taps, In bias, In gradient, Out dx,
                              Out dtaps, Out dbias) {
  Reduction op{shape_of(x, width), taps.typed_data()};
  std::fill_n(dx->typed_data(), dx->element_count(), 0.0f);
  Shape small = op.shape;
  small.height /= 4;
  auto work = strips(small, kBackwardRows / 4);
  Sums sums({&dtaps, &dbias}, work);
  for_each_task(pool, work.size(), [&](int i) {
    for (int row = work[i].begin; row < work[i].end; ++row)
      op.backward(work[i].image, row, x.typed_data(), gradient.typed_data(), dx->typed_data(), sums.of(i, 0),
                  sums.of(i, 1));
  });
  sums.finish();
  return ffi::Error::Success();
}

}  // namespace

// Each takes its arrays in the order of its function's parameters.
#define SEEMORE_KERNEL(name)                                                                       \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* seemore_##name(XLA_FFI_CallFrame*); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(seemore_##name, name, Binder<decltype(&name)>::bind())

template <class Function>
struct Binder;
template <class... Arrays>
struct Binder<ffi::Error (*)(ffi::ThreadPool, int64_t, Arrays...)> {
  static auto bind() { return with<Arrays...>(ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<int64_t>("width")); }

  // A binding cannot be moved: each step returns what the next makes of it.
  template <class First, class... Rest, class Binding>
  static auto with(Binding&& binding) {
    if constexpr (sizeof...(Rest) == 0)
      return with_one<First>(std::forward<Binding>(binding));
    else
      return with<Rest...>(with_one<First>(std::forward<Binding>(binding)));
  }
  template <class Array, class Binding>
  static auto with_one(Binding&& binding) {
    if constexpr (std::is_same_v<Array, In>)
      return std::forward<Binding>(binding).template Arg<In>();
    else
      return std::forward<Binding>(binding).template Ret<ffi::Buffer<ffi::F32>>();
  }
};

SEEMORE_KERNEL(gated_feed_forward);
SEEMORE_KERNEL(gated_feed_forward_backward);
SEEMORE_KERNEL(spatial_enhancement);
SEEMORE_KERNEL(spatial_enhancement_backward);
SEEMORE_KERNEL(convolution);
SEEMORE_KERNEL(convolution_backward);
SEEMORE_KERNEL(features_and_context);
SEEMORE_KERNEL(features_and_context_backward);
SEEMORE_KERNEL(low_rank_experts);
SEEMORE_KERNEL(low_rank_experts_backward);
SEEMORE_KERNEL(reduction);
SEEMORE_KERNEL(reduction_backward);

}  // namespace seemore
