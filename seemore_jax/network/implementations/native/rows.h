// Where the features are: whole maps in arrays, a few of their rows in scratch memory.
//
// Maps are (N, H, C, P): each image row is C lines of P floats. P is the width W rounded up to kBlock, so that every
// line is whole vectors. What stands in the columns from W on is arbitrary but finite in features, and zero in
// gradients; it is cleared wherever a filter could see it. Of the H rows, `height` are image, and what is said of the
// columns holds for the others: one program serves images of several sizes.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "vector.h"

namespace seemore {

inline constexpr int kBlock = 16;
inline constexpr int kMargin = 16;  // zeros beside each line in scratch memory: half of the longest filter

struct Shape {
  int images, rows, channels, pitch;  // of the array
  int height, width;                  // of the image in it
  size_t line(int image, int row, int channel) const {
    return ((static_cast<size_t>(image) * rows + row) * channels + channel) * pitch;
  }
  size_t row_stride() const { return static_cast<size_t>(channels) * pitch; }
  bool has(int row) const { return row >= 0 && row < height; }
};

// Memory that one task of a thread uses and the next reuses: fresh pages would cost more than the arithmetic.
class Scratch {
 public:
  static Scratch& of_thread() {
    thread_local Scratch scratch;
    scratch.next_ = 0;
    return scratch;
  }
  // Until `of_thread` is called again; not initialized.
  float* take(size_t count) {
    if (next_ == blocks_.size()) blocks_.emplace_back();
    Block& block = blocks_[next_++];
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
  struct Block {
    std::unique_ptr<float[], Free> memory;
    size_t size = 0;
  };
  std::vector<Block> blocks_;
  size_t next_ = 0;
};

// Lines of several rows: channel c of row r begins at data + r * row_stride + c * stride.
struct Block {
  const float* data;
  ptrdiff_t row_stride, stride;
};

// `count` consecutive image rows from `first` on; of later rows, each takes the place of the one `count` before it.
class Rows {
 public:
  // Until the scratch memory's next task; zeros in the margins, else not initialized.
  Rows(Scratch& scratch, int first, int count, int channels, int pitch)
      : first_(first), count_(count), channels_(channels), stride_(pitch + 2 * kMargin), pitch_(pitch) {
    data_ = scratch.take(static_cast<size_t>(count) * channels * stride_);
    for (size_t line = 0; line < static_cast<size_t>(count) * channels; ++line) {
      float* begin = data_ + line * stride_;
      std::fill(begin, begin + kMargin, 0.0f);
      std::fill(begin + kMargin + pitch, begin + stride_, 0.0f);
    }
  }
  // Of a row from `first` on.
  float* line(int row, int channel) {
    return data_ + (static_cast<size_t>((row - first_) % count_) * channels_ + channel) * stride_ + kMargin;
  }
  ptrdiff_t stride() const { return stride_; }                  // from a channel to the next
  ptrdiff_t row_stride() const { return stride_ * channels_; }  // from a row to the next
  Block from(int row) { return {line(row, 0), row_stride(), stride_}; }
  void clear(int row) {
    for (int c = 0; c < channels_; ++c) std::fill_n(line(row, c), pitch_, 0.0f);
  }
  // column <= pitch.
  void clear_from(int row, int column) {
    for (int c = 0; c < channels_; ++c) std::fill(line(row, c) + column, line(row, c) + pitch_, 0.0f);
  }

 private:
  float* data_;
  int first_, count_, channels_;
  ptrdiff_t stride_;
  int pitch_;
};

// Strips of rows into which an image is cut for the threads: the same whatever their number, so that sums are, too.
struct Strip {
  int image, begin, end;
};

// Those of rows from … until - 1; most_rows and multiple are positive.
inline std::vector<Strip> strips(int images, int from, int until, int most_rows, int multiple = 1) {
  if (from >= until) return {};
  int height = until - from, pieces = (height + most_rows - 1) / most_rows;
  if (images == 1 && pieces > 1) pieces += pieces % 2;  // two threads share an even number alike
  int rows = (height + pieces - 1) / pieces;
  rows = (rows + multiple - 1) / multiple * multiple;
  std::vector<Strip> all;
  for (int image = 0; image < images; ++image)
    for (int begin = from; begin < until; begin += rows) all.push_back({image, begin, std::min(begin + rows, until)});
  return all;
}

inline std::vector<Strip> strips(const Shape& shape, int most_rows) {
  return strips(shape.images, 0, shape.height, most_rows);
}

// (x - mean) / deviation over the channels of each pixel of a row; `inverse` gets 1 / deviation, unless it is null.
// Lines have `pitch` floats, a multiple of kLanes.
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

// The gradient of `normalize` with respect to x, from the gradient with respect to its output. The lines have the same
// requirements as those of `normalize`.
template <class Emit>
inline void normalize_backward(const float* gradient, ptrdiff_t gradient_stride, const float* normalized,
                               ptrdiff_t normalized_stride, const float* inverse, int channels, int pitch,
                               Emit&& emit) {
  for (int w = 0; w < pitch; w += kLanes) {
    Vec mean{}, slope{};
    for (int c = 0; c < channels; ++c) {
      Vec g = load(gradient + c * gradient_stride + w);
      mean += g;
      slope += g * load(normalized + c * normalized_stride + w);
    }
    mean /= static_cast<float>(channels);
    slope /= static_cast<float>(channels);
    Vec scale = load(inverse + w);
    for (int c = 0; c < channels; ++c) {
      Vec g = load(gradient + c * gradient_stride + w);
      emit(c, w, (g - mean - load(normalized + c * normalized_stride + w) * slope) * scale);
    }
  }
}

}  // namespace seemore
