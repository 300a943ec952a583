// What the kernels have in common: products of 16 pixels with a matrix, LayerNorm, GELU, and filters along a line.
//
// A warp multiplies 16 pixels with 8 columns of a matrix at a time, in the layout of the instruction mma.m16n8k16: lane
// 4 g + t has the values of pixels g and g + 8 in the columns 2 t and 2 t + 1. In bfloat16 this is a tensor core; in
// float32 each lane computes its four values itself, by fused multiply-adds.
#pragma once

#include "memory.h"

namespace seemore_gpu {

constexpr int kFragment = 16 * 8;  // values of a matrix in one step, for 8 of its columns
constexpr int kMostTiles = 8;  // most tiles of 8 columns that a warp computes at once; more would not fit in registers

DEVICE constexpr int tiles_of(int columns) { return (columns + 7) / 8; }
constexpr int kSteps = kPadded / 16;
constexpr int kTiles = tiles_of(kChannels);
constexpr int kMatrix = kSteps * kTiles * kFragment;  // values of a matrix from C to C channels
constexpr bool kOneChunk = kTiles <= kMostTiles;

// Offsets in shared memory of the two pixels of each lane.
struct RowOffsets {
  int of[kLanes][2];
};

template <int kCount>
struct Sums {
  float of[kCount][kLanes][4];
};

// max(x, 0) - |x| / 2 · erfc(|x| / √2), with erfc by Abramowitz and Stegun 7.1.26: |error| < 1.5e-7, and half of the
// instructions of erff.
DEVICE float gelu(float x) {
  const float a = absolute(x), t = reciprocal(1.0f + 0.23164190f * a);
  const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
  return (x > 0.0f ? x : 0.0f) - 0.5f * a * (p * power_of_two(a * a * -0.72134752f));
}

#if SEEMORE_BFLOAT16
// Adds the product of 16 × 16 and 16 × 8 values: the instruction mma.sync.m16n8k16, and for a CPU what it computes.
DEVICE void multiply_add(float (&sums)[kLanes][4], const u32 (&left)[kLanes][4], const uint2 (&right)[kLanes]) {
#ifdef __CUDACC__
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(sums[0][0]), "+f"(sums[0][1]), "+f"(sums[0][2]), "+f"(sums[0][3])
      : "r"(left[0][0]), "r"(left[0][1]), "r"(left[0][2]), "r"(left[0][3]), "r"(right[0].x), "r"(right[0].y));
#else
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const Pair pair = unpacked(left[lane][i]);
      float* at = &a[g + 8 * (i & 1)][2 * t + 8 * (i >> 1)];
      at[0] = pair.low;
      at[1] = pair.high;
    }
    for (int i = 0; i < 2; ++i) {
      const Pair pair = unpacked(i ? right[lane].y : right[lane].x);
      b[2 * t + 8 * i][g] = pair.low;
      b[2 * t + 8 * i + 1][g] = pair.high;
    }
  }
  for (int row = 0; row < 16; ++row) {
    float of_row[8] = {};
    for (int k = 0; k < 16; ++k)
      for (int column = 0; column < 8; ++column) of_row[column] += a[row][k] * b[k][column];
    for (int column = 0; column < 8; ++column)
      sums[row % 8 * 4 + column / 2][2 * (row / 8) + column % 2] += of_row[column];
  }
#endif
}
#endif

// Adds a product of the pixels at `rows` of `a`, and of `16 · steps` rows of a matrix, to the sums. `weights` are the
// fragments of the first tile; a step is `stride` fragments long. Only the first `count` tiles are computed.
template <int kStepsOfA, int kCount>
DEVICE void accumulate(Sums<kCount>& sums, const Value* a, const RowOffsets& rows, const Value* weights, int stride,
                       int count) {
#if SEEMORE_BFLOAT16
  UNROLL for (int step = 0; step < kStepsOfA; ++step) {
    u32 left[kLanes][4];
    FOR_LANES(l, lane) {
      UNROLL for (int i = 0; i < 4; ++i) {
        const Value* at = a + rows.of[l][i & 1] + 16 * step + 2 * (lane % 4) + 8 * (i >> 1);
        recorder::reads(at, 4);
        left[l][i] = *reinterpret_cast<const u32*>(at);
      }
    }
    UNROLL for (int n = 0; n < kCount; ++n) {
      if (n >= count) continue;
      uint2 right[kLanes];
      FOR_LANES(l, lane) {
        right[l] = *reinterpret_cast<const uint2*>(weights + (step * stride + n) * kFragment + 4 * lane);
      }
      multiply_add(sums.of[n], left, right);
    }
  }
#else
  NO_UNROLL for (int k = 0; k < 16 * kStepsOfA; k += 4) {
    float4 left[kLanes][2];
    FOR_LANES(l, lane) {
      UNROLL for (int i = 0; i < 2; ++i) {
        recorder::reads(a + rows.of[l][i] + k, 16);
        left[l][i] = *reinterpret_cast<const float4*>(a + rows.of[l][i] + k);
      }
    }
    UNROLL for (int n = 0; n < kCount; ++n) {
      if (n >= count) continue;
      const Value* fragment = weights + (k / 16 * stride + n) * kFragment + k % 16 * 8;
      FOR_LANES(l, lane) {
        const float4 first = *reinterpret_cast<const float4*>(fragment + 4 * (lane % 4));
        const float4 second = *reinterpret_cast<const float4*>(fragment + 16 + 4 * (lane % 4));
        UNROLL for (int i = 0; i < 2; ++i) {
          const float4 x = left[l][i];
          float* sum = sums.of[n][l] + 2 * i;
          sum[0] += x.x * first.x;
          sum[1] += x.x * first.y;
          sum[0] += x.y * first.z;
          sum[1] += x.y * first.w;
          sum[0] += x.z * second.x;
          sum[1] += x.z * second.y;
          sum[0] += x.w * second.z;
          sum[1] += x.w * second.w;
        }
      }
    }
  }
#endif
}

template <int kCount>
DEVICE void clear(Sums<kCount>& sums) {
  UNROLL for (int n = 0; n < kCount; ++n) FOR_LANES(l, lane) UNROLL for (int i = 0; i < 4; ++i) sums.of[n][l][i] = 0.0f;
}

// Calls epilogue(l, lane, row, column, low, high) for all sums of a warp. `row` is 0 to 15.
template <int kCount, class Epilogue>
DEVICE void finish(const Sums<kCount>& sums, int first_tile, int count, Epilogue epilogue) {
  UNROLL for (int n = 0; n < kCount; ++n) {
    if (n >= count) continue;
    FOR_LANES(l, lane) {
      UNROLL for (int i = 0; i < 2; ++i) epilogue(l, lane, lane / 4 + 8 * i, 8 * (first_tile + n) + 2 * (lane % 4),
                                                  sums.of[n][l][2 * i], sums.of[n][l][2 * i + 1]);
    }
  }
}

// Multiplies 16 pixels with a matrix of `8 · kColumnTiles` columns, and calls the epilogue for the products.
// `add(sums, first_tile, count)` accumulates the products of some tiles.
template <int kColumnTiles, class Add, class Epilogue>
DEVICE void multiply(Add add, Epilogue epilogue) {
  constexpr int kChunks = (kColumnTiles + kMostTiles - 1) / kMostTiles;
  constexpr int kCount = (kColumnTiles + kChunks - 1) / kChunks;
  NO_UNROLL for (int first = 0; first < kColumnTiles; first += kCount) {
    // If there is one chunk, the compiler knows this number, and removes the comparisons with it.
    const int count = kChunks == 1 || first + kCount <= kColumnTiles ? kCount : kColumnTiles - first;
    Sums<kCount> sums;
    clear(sums);
    add(sums, first, count);
    WARP_BARRIER();  // an epilogue may write where the product has read
    finish(sums, first, count, epilogue);
  }
}

// The same for one matrix of C rows, with the pixels at `rows` of `a`.
template <int kColumnTiles, class Epilogue>
DEVICE void multiply(const Value* a, const RowOffsets& rows, const Value* weights, Epilogue epilogue) {
  multiply<kColumnTiles>(
      [&](auto& sums, int first, int count) {
        accumulate<kSteps>(sums, a, rows, weights + first * kFragment, kColumnTiles, count);
      },
      epilogue);
}

// Returns the offsets of 16 rows, from the row of each of them.
template <class RowOf>
DEVICE RowOffsets offsets(RowOf row_of) {
  RowOffsets rows;
  FOR_LANES(l, lane) { UNROLL for (int i = 0; i < 2; ++i) rows.of[l][i] = row_of(lane / 4 + 8 * i) * kPitch; }
  return rows;
}

// Sets the columns from `8 · kFilledTiles` on of 16 rows to zero, which no product with C columns fills.
template <int kFilledTiles, class RowOf>
DEVICE void clear_padding(Value* shared, RowOf row_of) {
  UNROLL for (int n = kFilledTiles; n < kPadded / 8; ++n) FOR_LANES(l, lane) {
    UNROLL for (int i = 0; i < 2; ++i)
        set_shared_pair(shared + row_of(lane / 4 + 8 * i) * kPitch + 8 * n + 2 * (lane % 4), 0.0f, 0.0f);
  }
}

// A pixel, and whether it is to be read.
struct Place {
  bool is_read;
  i64 at;
};

// Writes LayerNorm of 16 pixels to rows of shared memory; pixels that are not read become zeros. Four lanes have the
// channels of a pixel. `place_of(row)` is the place of a row, 0 to 15.
template <class PlaceOf>
DEVICE void normalize(Value* shared, const Value* x, const float* scale, const float* offset, PlaceOf place_of) {
  constexpr int kCount = kPadded / 8;
  NO_UNROLL for (int half = 0; half < 2; ++half) {
    float v[kLanes][2 * kCount], mean[kLanes], variance[kLanes];
    bool is_read[kLanes];
    FOR_LANES(l, lane) {
      const Place place = place_of(lane / 4 + 8 * half);
      is_read[l] = place.is_read;
      mean[l] = 0.0f;
      UNROLL for (int n = 0; n < kCount; ++n) {
        const Pair pair = place.is_read ? pixel_pair(x + place.at, 8 * n + 2 * (lane % 4)) : Pair{0.0f, 0.0f};
        v[l][2 * n] = pair.low;
        v[l][2 * n + 1] = pair.high;
        mean[l] += pair.low + pair.high;
      }
    }
    quad_sum(mean);
    FOR_LANES(l, lane) {
      mean[l] *= 1.0f / kChannels;
      variance[l] = 0.0f;
      UNROLL for (int i = 0; i < 2 * kCount; ++i) {
        v[l][i] = 8 * (i / 2) + 2 * (lane % 4) + i % 2 < kChannels ? v[l][i] - mean[l] : 0.0f;
        variance[l] += v[l][i] * v[l][i];
      }
    }
    quad_sum(variance);
    FOR_LANES(l, lane) {
      const float factor = inverse_root(variance[l] * (1.0f / kChannels) + 1e-6f);
      UNROLL for (int n = 0; n < kCount; ++n) {
        const int channel = 8 * n + 2 * (lane % 4);
        const Pair s = channel_pair(scale, channel), o = channel_pair(offset, channel);
        const float low = v[l][2 * n] * factor * s.low + o.low, high = v[l][2 * n + 1] * factor * s.high + o.high;
        set_shared_pair(shared + (lane / 4 + 8 * half) * kPitch + channel, is_read[l] ? low : 0.0f,
                        is_read[l] ? high : 0.0f);
      }
    }
  }
}

// Applies a filter of `kLength` taps along a line, for one pair of channels: result(i, low, high) gets the sum over k
// of input(i + k) · taps[k], plus the bias, for i from 0 to `count` - 1. Inputs are read up to i + kLength - 1, in
// order.
template <int kLength, class Input, class Result>
DEVICE void filter(int count, const float* taps, const float* bias, int channel, Input input, Result result) {
  constexpr int kAtOnce = 4;
  const Pair b = channel_pair(bias, channel);
  NO_UNROLL for (int first = 0; first < count; first += kAtOnce) {  // `count` is a multiple of kAtOnce
    Pair window[kAtOnce], sums[kAtOnce];
    UNROLL for (int i = 0; i < kAtOnce; ++i) {
      if (i > 0) window[i] = input(first + i - 1);
      sums[i] = b;
    }
    auto step = [&](int k) {
      UNROLL for (int i = 0; i + 1 < kAtOnce; ++i) window[i] = window[i + 1];
      window[kAtOnce - 1] = input(first + k + kAtOnce - 1);
      const Pair tap = channel_pair(taps + k * kChannels, channel);
      UNROLL for (int i = 0; i < kAtOnce; ++i) {
        sums[i].low += window[i].low * tap.low;
        sums[i].high += window[i].high * tap.high;
      }
    };
    if (kLength <= 33) {
      UNROLL for (int k = 0; k < kLength; ++k) step(k);
    } else {
      NO_UNROLL for (int k = 0; k < kLength; ++k) step(k);
    }
    UNROLL for (int i = 0; i < kAtOnce; ++i) result(first + i, sums[i].low, sums[i].high);
  }
}

}  // namespace seemore_gpu
