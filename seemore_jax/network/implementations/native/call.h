// The kernels as XLA calls them: their arrays, where the image is in them, and sums over strips of it.
#pragma once

#include <sys/mman.h>

#include <array>
#include <vector>

#include "parallel.h"
#include "rows.h"
#include "spatial_enhancement.h"
#include "xla/ffi/api/ffi.h"

namespace seemore {

namespace ffi = xla::ffi;

constexpr int kForwardRows = 48;   // of a strip: the rows at its edges are computed twice
constexpr int kBackwardRows = 32;  // whole strips are kept in scratch memory

// What part of the arrays is image: the first array of each call, as `Extent.region` in Python makes it.
struct Region {
  int height, width;                       // of the image in the arrays
  int first_row, image_height;             // of the image, of which the array may hold some rows only
  int summary_rows;                        // that are image in the summary of its context
  int begin, end;                          // rows that count in sums over the image
  int from, until;                         // rows to be computed; the others are left as they are
};

struct Array {
  float* data;
  ffi::Span<const int64_t> dims;
  int dim(int axis) const { return static_cast<int>(dims[axis]); }
  size_t count() const {
    size_t product = 1;
    for (int64_t size : dims) product *= size;
    return product;
  }
};

// Asks for large pages where the array has no memory yet: XLA allocates arrays anew for every call, and to get memory
// in small pages takes longer than to compute what is put there.
inline void use_large_pages(const Array& array) {
#ifdef MADV_HUGEPAGE
  constexpr size_t page = 1 << 21;
  size_t begin = reinterpret_cast<size_t>(array.data) / page * page;
  size_t size = reinterpret_cast<size_t>(array.data + array.count()) - begin;
  if (size >= 4 * page) madvise(reinterpret_cast<void*>(begin), size, MADV_HUGEPAGE);
#endif
}

class Call {
 public:
  Call(ffi::ThreadPool& pool, ffi::RemainingArgs& inputs, ffi::RemainingRets& outputs)
      : pool(pool), inputs_(inputs), outputs_(outputs) {
    const int32_t* r = inputs.get<ffi::Buffer<ffi::S32>>(0)->typed_data();
    region = {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8]};
  }
  template <size_t count>
  std::array<Array, count> inputs() const {
    std::array<Array, count> all;
    for (size_t i = 0; i < count; ++i) {
      auto buffer = *inputs_.get<ffi::Buffer<ffi::F32>>(i + 1);
      all[i] = {buffer.typed_data(), buffer.dimensions()};
    }
    return all;
  }
  template <size_t count>
  std::array<Array, count> outputs() const {
    std::array<Array, count> all;
    for (size_t i = 0; i < count; ++i) {
      auto buffer = *outputs_.get<ffi::Buffer<ffi::F32>>(i);
      all[i] = {buffer->typed_data(), buffer->dimensions()};
      use_large_pages(all[i]);
    }
    return all;
  }
  // Of feature maps that hold the image.
  Shape shape(const Array& map) const {
    return {map.dim(0), map.dim(1), map.dim(2), map.dim(3), region.height, region.width};
  }

  // Of the rows to be computed; each but the last a multiple of so many.
  std::vector<Strip> strips(const Shape& shape, int multiple = 1) const {
    return seemore::strips(shape.images, region.from, region.until, kForwardRows, multiple);
  }

  ffi::ThreadPool& pool;
  Region region;

 private:
  ffi::RemainingArgs& inputs_;
  ffi::RemainingRets& outputs_;
};

inline Striped striped_of(const Array& row, const Array& row_bias, const Array& column, const Array& column_bias) {
  return {row.dim(1), row.dim(0), row.data, row_bias.data, column.data, column_bias.data};
}

// Zeros in the rows of a map beyond the image, which no strip writes.
inline void clear_beyond(const Shape& shape, const Array& map) {
  size_t row = map.count() / (static_cast<size_t>(shape.images) * shape.rows);
  for (int image = 0; image < shape.images; ++image) {
    float* rows = map.data + image * shape.rows * row;
    std::fill(rows + shape.height * row, rows + shape.rows * row, 0.0f);
  }
}

// Arrays that several strips add to: each strip adds to a copy of its own, and the copies are added in order.
class Sums {
 public:
  // With `per_image`, the arrays' first axis is the image's, and a strip has only its image's part.
  Sums(std::vector<Array> outputs, const std::vector<Strip>& strips, bool per_image = false)
      : outputs_(std::move(outputs)), strips_(strips), images_(per_image ? strips.back().image + 1 : 1) {
    for (const Array& output : outputs_) {
      begins_.push_back(size_);
      size_ += output.count() / images_;
    }
    copies_.assign(strips.size() * size_, 0.0f);
  }
  float* of(int strip, int output) { return copies_.data() + strip * size_ + begins_[output]; }
  void finish() {
    for (size_t k = 0; k < outputs_.size(); ++k) {
      size_t count = outputs_[k].count() / images_;
      float* data = outputs_[k].data;
      std::fill_n(data, count * images_, 0.0f);
      for (size_t s = 0; s < strips_.size(); ++s) {
        float* to = data + (images_ == 1 ? 0 : strips_[s].image * count);
        const float* from = of(s, k);
        for (size_t i = 0; i < count; ++i) to[i] += from[i];
      }
    }
  }

 private:
  std::vector<Array> outputs_;
  const std::vector<Strip>& strips_;
  size_t images_, size_ = 0;
  std::vector<size_t> begins_;
  std::vector<float> copies_;
};

// Of one type for all kernels: each type that XLA's templates see costs seconds to compile.
using Handler = ffi::Error (*)(ffi::ThreadPool, ffi::RemainingArgs, ffi::RemainingRets);

template <void (*kernel)(const Call&)>
ffi::Error handle(ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  kernel(Call(pool, inputs, outputs));
  return ffi::Error::Success();
}

// The symbols that `native/__init__.py` registers.
#define SEEMORE_KERNEL(name)                                                                           \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* seemore_##name(XLA_FFI_CallFrame*); \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(seemore_##name, static_cast<Handler>(handle<name>),                    \
                                ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets())

}  // namespace seemore
