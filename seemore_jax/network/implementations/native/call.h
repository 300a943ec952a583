// The kernels as XLA calls them: their arrays, where the image is in them, and sums over strips of it.
#pragma once

#include <sys/mman.h>

#include <array>
#include <new>
#include <string>
#include <vector>

#include "parallel.h"
#include "rows.h"
#include "signature.h"
#include "spatial_enhancement.h"
#include "xla/ffi/api/ffi.h"

namespace seemore {

constexpr int kForwardRows = 48;   // of a strip: the rows at its edges are computed twice
constexpr int kBackwardRows = 32;  // whole strips are kept in scratch memory

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
  // Signatures: of the inputs after the region, and of the outputs. Throws std::invalid_argument if the buffers are
  // others.
  Call(const char* inputs_signature, const char* outputs_signature, ffi::ThreadPool& pool,
       const ffi::RemainingArgs& inputs, const ffi::RemainingRets& outputs)
      : pool(pool) {
    if (inputs.empty()) throw std::invalid_argument("region is missing: 0 inputs found");
    const int32_t* r = Check::region_values(*inputs.get<ffi::AnyBuffer>(0));
    Check check;
    inputs_ = check.arrays(inputs_signature, "inputs after the region", inputs.size() - 1,
                           [&](size_t i) { return *inputs.get<ffi::AnyBuffer>(i + 1); });
    outputs_ = check.arrays(outputs_signature, "outputs", outputs.size(),
                            [&](size_t i) { return **outputs.get<ffi::AnyBuffer>(i); });
    region = {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8]};
    check.region(region);
    for (const Array& output : outputs_) use_large_pages(output);
  }
  // `count` is their number in the signature.
  template <size_t count>
  std::array<Array, count> inputs() const {
    return first<count>(inputs_);
  }
  template <size_t count>
  std::array<Array, count> outputs() const {
    return first<count>(outputs_);
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
  template <size_t count>
  static std::array<Array, count> first(const std::vector<Array>& arrays) {
    if (arrays.size() != count) throw std::logic_error("the kernel takes other arrays than its signature has");
    std::array<Array, count> all;
    std::copy_n(arrays.begin(), count, all.begin());
    return all;
  }

  std::vector<Array> inputs_, outputs_;
};

inline Striped striped_of(const Array& row, const Array& row_bias, const Array& column, const Array& column_bias) {
  return {row.dim(1), row.dim(0), row.data, row_bias.data, column.data, column_bias.data};
}

// Zeros in the rows of a map beyond the image, which no strip writes. The map has images and rows.
inline void clear_beyond(const Shape& shape, const Array& map) {
  size_t row = map.count() / (static_cast<size_t>(shape.images) * shape.rows);
  for (int image = 0; image < shape.images; ++image) {
    float* rows = map.data + static_cast<size_t>(image) * shape.rows * row;
    std::fill(rows + shape.height * row, rows + shape.rows * row, 0.0f);
  }
}

// Arrays that several strips add to: each strip adds to a copy of its own, and the copies are added in order.
class Sums {
 public:
  // With `per_image`, the arrays' first axis is the image's, and a strip has only its image's part. The strips must
  // outlive this.
  Sums(std::vector<Array> outputs, const std::vector<Strip>& strips, bool per_image = false)
      : outputs_(std::move(outputs)), strips_(strips), images_(per_image ? outputs_[0].dim(0) : 1) {
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

// What a kernel throws becomes XLA's error, with the kernel's name.
inline ffi::Error handle(const char* name, const char* inputs_signature, const char* outputs_signature,
                         void (*kernel)(const Call&), ffi::ThreadPool& pool, const ffi::RemainingArgs& inputs,
                         const ffi::RemainingRets& outputs) {
  auto because = [name](const char* reason) { return std::string(name) + ": " + reason; };
  try {
    kernel(Call(inputs_signature, outputs_signature, pool, inputs, outputs));
    return ffi::Error::Success();
  } catch (const std::invalid_argument& error) {
    return ffi::Error::InvalidArgument(because(error.what()));
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, because("out of memory"));
  } catch (const std::exception& error) {
    return ffi::Error::Internal(because(error.what()));
  } catch (...) {
    return ffi::Error::Internal(because("unknown error"));
  }
}

// The symbols that `native/__init__.py` registers, with their signatures.
#define SEEMORE_KERNEL(name, inputs_signature, outputs_signature)                                            \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* seemore_##name(XLA_FFI_CallFrame*);       \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                             \
      seemore_##name,                                                                                        \
      static_cast<Handler>([](ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs) { \
        return handle("seemore_" #name, inputs_signature, outputs_signature, name, pool, inputs, outputs);   \
      }),                                                                                                    \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets())

}  // namespace seemore
