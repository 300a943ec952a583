// Calls of kernels by XLA: checked arrays, the valid region, sums over strips, and the definition of FFI symbols.
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

// Largest number of rows of a strip. Long strips recompute less, because the rows at the edges of a strip are computed
// twice. Short strips need less scratch memory: backward kernels keep all rows of a strip in it.
constexpr int kForwardStripRows = 48;
constexpr int kBackwardStripRows = 32;

// Asks the operating system for large pages for an array. XLA allocates the arrays of each call anew, and the page
// faults of small pages take longer than the computation of the values.
inline void use_large_pages(const Array& array) {
#ifdef MADV_HUGEPAGE
  constexpr size_t page = 1 << 21;
  size_t begin = reinterpret_cast<size_t>(array.data) / page * page;
  size_t size = reinterpret_cast<size_t>(array.data + array.count()) - begin;
  if (size >= 4 * page) madvise(reinterpret_cast<void*>(begin), size, MADV_HUGEPAGE);
#endif
}

// Call of a kernel: the arrays, the valid region and the thread pool.
class Call {
 public:
  // Checks the buffers against the signatures of the inputs (without the region, which is the first input) and of the
  // outputs. Throws std::invalid_argument if they do not match.
  Call(const char* inputs_signature, const char* outputs_signature, ffi::ThreadPool& pool,
       const ffi::RemainingArgs& inputs, const ffi::RemainingRets& outputs)
      : pool(pool) {
    if (inputs.empty()) throw std::invalid_argument("region is missing: 0 inputs found");
    const int32_t* r = SignatureCheck::region_values(*inputs.get<ffi::AnyBuffer>(0));
    SignatureCheck check;
    inputs_ = check.arrays(inputs_signature, "inputs after the region", inputs.size() - 1,
                           [&](size_t i) { return *inputs.get<ffi::AnyBuffer>(i + 1); });
    outputs_ = check.arrays(outputs_signature, "outputs", outputs.size(),
                            [&](size_t i) { return **outputs.get<ffi::AnyBuffer>(i); });
    region = {r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7], r[8]};
    check.region(region);
    for (const Array& output : outputs_) use_large_pages(output);
  }
  // Returns the input arrays without the region. `count` is the number of arrays in the signature.
  template <size_t count>
  std::array<Array, count> inputs() const {
    return first<count>(inputs_);
  }
  // Returns the output arrays. `count` is the number of arrays in the signature.
  template <size_t count>
  std::array<Array, count> outputs() const {
    return first<count>(outputs_);
  }
  // Returns the shape of a feature map that holds the image.
  Shape shape(const Array& map) const {
    return {map.dim(0), map.dim(1), map.dim(2), map.dim(3), region.height, region.width};
  }

  // Divides the rows that the kernel computes into strips. The height of each strip but the last is divisible by
  // `multiple`.
  std::vector<Strip> strips(const Shape& shape, int multiple = 1) const {
    return seemore::strips(shape.images, region.compute_begin, region.compute_end, kForwardStripRows, multiple);
  }

  ffi::ThreadPool& pool;
  ValidRegion region;

 private:
  template <size_t count>
  static std::array<Array, count> first(const std::vector<Array>& arrays) {
    if (arrays.size() != count) throw std::logic_error("the kernel and its signature have different numbers of arrays");
    std::array<Array, count> all;
    std::copy_n(arrays.begin(), count, all.begin());
    return all;
  }

  std::vector<Array> inputs_, outputs_;
};

// Makes a striped convolution from its arrays.
inline Striped striped_of(const Array& row, const Array& row_bias, const Array& column, const Array& column_bias) {
  return {row.dim(1), row.dim(0), row.data, row_bias.data, column.data, column_bias.data};
}

// Sets the rows of a feature map below the valid region to zero, because no strip writes them. The first axes of the
// map are images and rows, as in `shape`.
inline void clear_beyond(const Shape& shape, const Array& map) {
  size_t row = map.count() / (static_cast<size_t>(shape.images) * shape.rows);
  for (int image = 0; image < shape.images; ++image) {
    float* rows = map.data + static_cast<size_t>(image) * shape.rows * row;
    std::fill(rows + shape.height * row, rows + shape.rows * row, 0.0f);
  }
}

// Output arrays that are sums over strips. Each strip adds to its own copy of the arrays, and `finish` adds the copies
// in a fixed order, so that the result does not depend on the number of threads.
class StripSums {
 public:
  // With `per_image`, the first axis of the arrays is the image, and the copy of a strip is only the part of its image.
  // The vector of strips must outlive this object.
  StripSums(std::vector<Array> outputs, const std::vector<Strip>& strips, bool per_image = false)
      : outputs_(std::move(outputs)), strips_(strips), images_(per_image ? outputs_[0].dim(0) : 1) {
    for (const Array& output : outputs_) {
      begins_.push_back(size_);
      size_ += output.count() / images_;
    }
    copies_.assign(strips.size() * size_, 0.0f);
  }
  // Returns the copy of an output for a strip; it begins with zeros.
  float* of(int strip, int output) { return copies_.data() + strip * size_ + begins_[output]; }
  // Writes the sums to the output arrays.
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

// Type of the function that XLA calls. All kernels have the same type, because each further type makes the compilation
// of XLA's templates seconds longer.
using Handler = ffi::Error (*)(ffi::ThreadPool, ffi::RemainingArgs, ffi::RemainingRets);

// Runs a kernel, and turns an exception of the kernel into an error of XLA that begins with the kernel's name.
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

// Defines the FFI symbol seemore_NAME of the kernel function NAME, which native/__init__.py registers with XLA.
#define SEEMORE_KERNEL(name, inputs_signature, outputs_signature)                                            \
  extern "C" __attribute__((visibility("default"))) XLA_FFI_Error* seemore_##name(XLA_FFI_CallFrame*);       \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                             \
      seemore_##name,                                                                                        \
      static_cast<Handler>([](ffi::ThreadPool pool, ffi::RemainingArgs inputs, ffi::RemainingRets outputs) { \
        return handle("seemore_" #name, inputs_signature, outputs_signature, name, pool, inputs, outputs);   \
      }),                                                                                                    \
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets())

}  // namespace seemore
