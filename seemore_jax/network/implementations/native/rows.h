// The layout of feature maps, buffers for a few of their rows, and LayerNorm.
//
// A feature map is an array (N, H, C, P): each image row is C lines of P floats. The pitch P is the image width rounded
// up to a multiple of kBlock, so that each line consists of whole vectors. The valid region of a map is its first
// `height` rows and `width` columns. Outside of the valid region, features are arbitrary finite values and gradients
// are zeros; a kernel sets features there to zero wherever a filter reads them. One compiled program therefore serves
// images of several sizes.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "vector.h"

namespace seemore {

inline constexpr int kBlock = 16;   // the pitch of a feature map is a multiple of this
inline constexpr int kMargin = 16;  // zeros on each side of a line in a RowBuffer: half of the longest filter

// Shape of a feature map.
struct Shape {
  int images, rows, channels, pitch;  // axes of the array (N, H, C, P)
  int height, width;                  // size of the valid region

  // Index, in the array, of the first float of a line.
  size_t line(int image, int row, int channel) const {
    return ((static_cast<size_t>(image) * rows + row) * channels + channel) * pitch;
  }
  size_t row_stride() const { return static_cast<size_t>(channels) * pitch; }
  bool has(int row) const { return row >= 0 && row < height; }
};

// Memory of one thread that each task uses anew. Memory from the operating system would cost more time than the
// arithmetic.
class Scratch {
 public:
  // Returns the memory of the calling thread. Everything that was taken from it before becomes invalid.
  static Scratch& of_thread() {
    thread_local Scratch scratch;
    scratch.next_ = 0;
    return scratch;
  }
  // Returns uninitialized memory for `count` floats, aligned to 64 bytes.
  float* take(size_t count) {
    if (next_ == blocks_.size()) blocks_.emplace_back();
    MemoryBlock& block = blocks_[next_++];
    if (block.size < count) {
      block.memory.reset(static_cast<float*>(::operator new[](count * sizeof(float), std::align_val_t(64))));
      block.size = count;
    }
    return block.memory.get();
  }

 private:
  struct Free {
    void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(64)); }
  };
  struct MemoryBlock {
    std::unique_ptr<float[], Free> memory;
    size_t size = 0;
  };
  std::vector<MemoryBlock> blocks_;
  size_t next_ = 0;
};

// View of consecutive rows: channel c of row r begins at data + r * row_stride + c * stride.
struct RowView {
  const float* data;
  ptrdiff_t row_stride, stride;
};

// Ring buffer of `count` consecutive image rows. A later row overwrites the row that is `count` rows above it.
class RowBuffer {
 public:
  // Takes the memory from `scratch`. The margins are zeros; the lines are uninitialized. `first` is the index of the
  // first image row.
  RowBuffer(Scratch& scratch, int first, int count, int channels, int pitch)
      : first_(first), count_(count), channels_(channels), stride_(pitch + 2 * kMargin), pitch_(pitch) {
    data_ = scratch.take(static_cast<size_t>(count) * channels * stride_);
    for (size_t line = 0; line < static_cast<size_t>(count) * channels; ++line) {
      float* begin = data_ + line * stride_;
      std::fill(begin, begin + kMargin, 0.0f);
      std::fill(begin + kMargin + pitch, begin + stride_, 0.0f);
    }
  }
  // Returns a line of an image row. The row must not lie above the first row of the buffer.
  float* line(int row, int channel) {
    return data_ + (static_cast<size_t>((row - first_) % count_) * channels_ + channel) * stride_ + kMargin;
  }
  ptrdiff_t stride() const { return stride_; }                  // floats from one channel to the next
  ptrdiff_t row_stride() const { return stride_ * channels_; }  // floats from one row to the next
  // Returns a view that begins at an image row.
  RowView view(int row) { return {line(row, 0), row_stride(), stride_}; }
  // Sets a row to zero.
  void clear(int row) {
    for (int c = 0; c < channels_; ++c) std::fill_n(line(row, c), pitch_, 0.0f);
  }
  // Sets the columns of a row from `column` on to zero, where column <= pitch.
  void clear_from(int row, int column) {
    for (int c = 0; c < channels_; ++c) std::fill(line(row, c) + column, line(row, c) + pitch_, 0.0f);
  }

 private:
  float* data_;
  int first_, count_, channels_;
  ptrdiff_t stride_;
  int pitch_;
};

// Strip of an image: the rows begin, ..., end - 1. Each strip is one task. The strips do not depend on the number of
// threads, and so sums over strips do not depend on it either.
struct Strip {
  int image, begin, end;
};

// Divides the rows begin, ..., end - 1 of each image into strips of at most `max_rows` rows, rounded up to a multiple
// of `multiple`. Both are positive.
inline std::vector<Strip> strips(int images, int begin, int end, int max_rows, int multiple = 1) {
  if (begin >= end) return {};
  int height = end - begin, count = (height + max_rows - 1) / max_rows;
  if (images == 1 && count > 1) count += count % 2;  // two threads share an even number of strips equally
  int rows = (height + count - 1) / count;
  rows = (rows + multiple - 1) / multiple * multiple;
  std::vector<Strip> all;
  for (int image = 0; image < images; ++image)
    for (int row = begin; row < end; row += rows) all.push_back({image, row, std::min(row + rows, end)});
  return all;
}

// Divides all valid rows of a feature map into strips.
inline std::vector<Strip> strips(const Shape& shape, int max_rows) {
  return strips(shape.images, 0, shape.height, max_rows);
}

// Computes (x - mean) / deviation over the channels of each pixel of a row: LayerNorm without its affine map. `inverse`
// receives 1 / deviation, unless it is null. Lines have `pitch` floats, a multiple of kLanes.
inline void normalize(const float* x, int channels, int pitch, float* out, ptrdiff_t out_stride, float* inverse) {
  for (int w = 0; w < pitch; w += kLanes) {
    Vec mean{};
    for (int c = 0; c < channels; ++c) mean += load(x + c * pitch + w);
    mean /= static_cast<float>(channels);
    Vec variance{};
    for (int c = 0; c < channels; ++c) {
      Vec d = load(x + c * pitch + w) - mean;
      variance += d * d;
    }
    Vec scale = inverse_sqrt(variance / static_cast<float>(channels) + 1e-6f);
    if (inverse) store(inverse + w, scale);
    for (int c = 0; c < channels; ++c) store(out + c * out_stride + w, (load(x + c * pitch + w) - mean) * scale);
  }
}

// Computes the gradient of `normalize` with respect to x from the gradient with respect to its output, and calls
// emit(channel, column, vector) with it. `normalized` and `inverse` are the results of `normalize`.
template <class Emit>
inline void normalize_backward(const float* gradient, ptrdiff_t gradient_stride, const float* normalized,
                               ptrdiff_t normalized_stride, const float* inverse, int channels, int pitch,
                               Emit&& emit) {
  for (int w = 0; w < pitch; w += kLanes) {
    Vec gradient_mean{}, product_mean{};  // over the channels: of the gradient, and of gradient * normalized
    for (int c = 0; c < channels; ++c) {
      Vec g = load(gradient + c * gradient_stride + w);
      gradient_mean += g;
      product_mean += g * load(normalized + c * normalized_stride + w);
    }
    gradient_mean /= static_cast<float>(channels);
    product_mean /= static_cast<float>(channels);
    Vec scale = load(inverse + w);
    for (int c = 0; c < channels; ++c) {
      Vec g = load(gradient + c * gradient_stride + w);
      emit(c, w, (g - gradient_mean - load(normalized + c * normalized_stride + w) * product_mean) * scale);
    }
  }
}

}  // namespace seemore
