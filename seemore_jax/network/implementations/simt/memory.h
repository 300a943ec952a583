// Values in global and in shared memory: float32 or bfloat16, in rows of channels.
//
// Macros choose what is compiled: SEEMORE_CHANNELS is the number of channels C, SEEMORE_BFLOAT16 is 1 for bfloat16 and
// 0 for float32.
#pragma once

#include "simt.h"

namespace seemore_gpu {

constexpr int kChannels = SEEMORE_CHANNELS;

#if SEEMORE_BFLOAT16
typedef u16 Value;
constexpr int kSkew = 8;
#else
typedef float Value;
constexpr int kSkew = 4;
#endif

DEVICE constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// A row of shared memory has the channels of a pixel, zeros up to a multiple of 16, and a skew: eight rows, of which
// four lanes each read neighbouring values, then lie in different banks.
constexpr int kPadded = round_up(kChannels, 16);
DEVICE constexpr int pitch_of(int padded) { return padded + kSkew; }
constexpr int kPitch = pitch_of(kPadded);

// The element-wise stages give each thread one pair of channels; `kGroups` threads have the same pair.
constexpr int kPairs = kPadded / 2;
constexpr int kGroups = kThreads / kPairs;
static_assert(kGroups > 0, "at most 512 channels");

struct Pair {
  float low, high;
};

#if SEEMORE_BFLOAT16
DEVICE Pair unpacked(u32 bits) { return {as_float(bits << 16), as_float(bits & 0xffff0000u)}; }
DEVICE float widened(Value value) { return as_float(static_cast<u32>(value) << 16); }
DEVICE Value narrowed(float value) { return static_cast<Value>(pack(value, 0.0f) & 0xffffu); }
#else
DEVICE float widened(Value value) { return value; }
DEVICE Value narrowed(float value) { return value; }
#endif

// Shared memory: pairs at even offsets.

DEVICE Pair shared_pair(const Value* at) {
  recorder::reads(at, 2 * sizeof(Value));
#if SEEMORE_BFLOAT16
  return unpacked(*reinterpret_cast<const u32*>(at));
#else
  const float2 pair = *reinterpret_cast<const float2*>(at);
  return {pair.x, pair.y};
#endif
}

DEVICE void set_shared_pair(Value* at, float low, float high) {
  recorder::writes(at, 2 * sizeof(Value));
#if SEEMORE_BFLOAT16
  *reinterpret_cast<u32*>(at) = pack(low, high);
#else
  *reinterpret_cast<float2*>(at) = float2{low, high};
#endif
}

DEVICE float shared_float(const float* at) {
  recorder::reads(at, sizeof(float));
  return *at;
}

DEVICE void set_shared_float(float* at, float value) {
  recorder::writes(at, sizeof(float));
  *at = value;
}

// Global memory: the channels `channel` and `channel + 1` of a pixel, or of a float32 vector or filter. Channels from C
// on are zeros, and are not written.

DEVICE Pair pixel_pair(const Value* pixel, int channel) {
  if (channel >= kChannels) return {0.0f, 0.0f};
#if SEEMORE_BFLOAT16
  if (kChannels % 2 == 0) return unpacked(*reinterpret_cast<const u32*>(pixel + channel));
#else
  if (kChannels % 2 == 0) {
    const float2 pair = *reinterpret_cast<const float2*>(pixel + channel);
    return {pair.x, pair.y};
  }
#endif
  return {widened(pixel[channel]), channel + 1 < kChannels ? widened(pixel[channel + 1]) : 0.0f};
}

DEVICE void set_pixel_pair(Value* pixel, int channel, float low, float high) {
  if (channel >= kChannels) return;
  if (kChannels % 2 == 0) {
#if SEEMORE_BFLOAT16
    *reinterpret_cast<u32*>(pixel + channel) = pack(low, high);
#else
    *reinterpret_cast<float2*>(pixel + channel) = float2{low, high};
#endif
    return;
  }
  pixel[channel] = narrowed(low);
  if (channel + 1 < kChannels) pixel[channel + 1] = narrowed(high);
}

// `size` is the number of elements of the vector.
DEVICE Pair vector_pair(const float* vector, int index, int size) {
  if (size % 2 == 0) {
    if (index >= size) return {0.0f, 0.0f};
    const float2 pair = *reinterpret_cast<const float2*>(vector + index);
    return {pair.x, pair.y};
  }
  return {index < size ? vector[index] : 0.0f, index + 1 < size ? vector[index + 1] : 0.0f};
}

DEVICE Pair channel_pair(const float* vector, int channel) { return vector_pair(vector, channel, kChannels); }

// Feature maps (N, H, W, C), of which the first `height` rows and `width` columns are valid.
struct Map {
  int rows, columns;  // H and W
  int height, width;  // of the valid region

  DEVICE bool is_valid(int row, int column) const { return row >= 0 && row < height && column >= 0 && column < width; }
  DEVICE bool has(int row, int column) const { return row < rows && column < columns; }
  // Returns the index of a pixel's first value.
  DEVICE i64 at(int image, int row, int column) const {
    return ((static_cast<i64>(image) * rows + row) * columns + column) * kChannels;
  }
};

// The first two arrays of a kernel: `sizes` is H, W, the numbers of blocks along x, y and z, then the height and the
// width of the array of the summary; `region` begins with the height and the width of the valid region, and the rows
// that count in sums, from `begin` to `end` - 1.
DEVICE Map map_of(const int* sizes, const int* region) { return {sizes[0], sizes[1], region[0], region[1]}; }

struct Block {
  int x, y, z;
};

}  // namespace seemore_gpu
