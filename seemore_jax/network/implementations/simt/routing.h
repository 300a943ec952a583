// What is between the first kernel of a residual group and its experts: the router, softmax(W · mean of the features),
// and the summary of the context, pointwise(depthwise3(reduced context)). The first block of an image computes the
// router; each other block computes `kPixels` pixels of the summary. SEEMORE_EXPERTS is the number of experts. If
// SEEMORE_LENGTH is 1, the context is first reduced once more, by 4: GELU(depthwise4(z)).
#pragma once

#include "products.h"

namespace seemore_gpu {
namespace routing {

constexpr int kExperts = SEEMORE_EXPERTS, kStride = SEEMORE_LENGTH ? 4 : 1;
constexpr int kOfThread = 4;  // pixels of a thread
constexpr int kPixels = kOfThread * kGroups;
constexpr int kSummaryFloats = kPixels * kPadded, kRouterFloats = kGroups * kPadded + kPadded + kExperts;
constexpr int kSharedBytes = (kSummaryFloats > kRouterFloats ? kSummaryFloats : kRouterFloats) * sizeof(float);
static_assert(kPixels == SEEMORE_TILE_WIDTH, "the launch has another number of pixels");
static_assert(kSharedBytes == SEEMORE_SHARED_BYTES, "the launch has another size of shared memory");

struct Arrays {
  // The sizes are the number of tiles, 1, the numbers of blocks, height and width of the summary, and of `reduced`. The
  // region ends with the size of the summary.
  const int *sizes, *region;
  const float* sums;  // of the features, for each image and tile
  const Value* reduced;
  const float *router, *reduction, *reduction_bias, *taps, *taps_bias, *pointwise, *pointwise_bias;
  float* probabilities;
  Value* summary;
};

DEVICE void route(const Arrays& p, float* shared, int image) {
  float *partial = shared, *mean = partial + kGroups * kPadded, *logits = mean + kPadded;
  const int tiles = p.sizes[0];
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups) {
      Pair sum = {0.0f, 0.0f};
      for (int tile = group; tile < tiles; tile += kGroups) {
        const Pair pair = channel_pair(p.sums + (static_cast<i64>(image) * tiles + tile) * kChannels, channel);
        sum.low += pair.low;
        sum.high += pair.high;
      }
      set_shared_float(partial + group * kPadded + channel, sum.low);
      set_shared_float(partial + group * kPadded + channel + 1, sum.high);
    }
  }
  BARRIER();
  FOR_THREADS(thread) {
    const float pixels = static_cast<float>(p.region[0]) * static_cast<float>(p.region[1]);
    for (int channel = thread; channel < kChannels; channel += kThreads) {
      float sum = 0.0f;
      for (int group = 0; group < kGroups; ++group) sum += shared_float(partial + group * kPadded + channel);
      set_shared_float(mean + channel, sum / pixels);
    }
  }
  BARRIER();
  FOR_THREADS(thread) {
    for (int expert = thread; expert < kExperts; expert += kThreads) {
      float logit = 0.0f;
      for (int channel = 0; channel < kChannels; ++channel)
        logit += shared_float(mean + channel) * p.router[channel * kExperts + expert];
      set_shared_float(logits + expert, logit);
    }
  }
  BARRIER();
  FOR_THREADS(thread) {
    for (int expert = thread; expert < kExperts; expert += kThreads) {
      constexpr float kLog2e = 1.44269504f;
      float largest = shared_float(logits), total = 0.0f;
      for (int i = 1; i < kExperts; ++i) {
        const float logit = shared_float(logits + i);
        largest = logit > largest ? logit : largest;
      }
      for (int i = 0; i < kExperts; ++i) total += power_of_two((shared_float(logits + i) - largest) * kLog2e);
      p.probabilities[image * kExperts + expert] =
          power_of_two((shared_float(logits + expert) - largest) * kLog2e) / total;
    }
  }
}

// Returns a pair of channels of the context at a pixel of the summary, reduced as often as the network does it.
DEVICE Pair context_pair(const Arrays& p, int image, int row, int column, int channel) {
  const int rows = p.sizes[7], columns = p.sizes[8];
  const Value* corner =
      p.reduced + ((static_cast<i64>(image) * rows + kStride * row) * columns + kStride * column) * kChannels;
  if (kStride == 1) return pixel_pair(corner, channel);
  Pair sum = channel_pair(p.reduction_bias, channel);
  UNROLL for (int k = 0; k < 16; ++k) {
    const Pair z = pixel_pair(corner + (k / 4 * columns + k % 4) * kChannels, channel);
    const Pair tap = channel_pair(p.reduction + k * kChannels, channel);
    sum.low += z.low * tap.low;
    sum.high += z.high * tap.high;
  }
  return {gelu(sum.low), gelu(sum.high)};
}

DEVICE void summarize(const Arrays& p, float* convolved, int image, int first) {
  const int rows = p.sizes[5], columns = p.sizes[6];
  const Map map = {rows, columns, p.region[4], p.region[5]};
  const int count = rows * columns;
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups)
      for (int i = group; i < kPixels && first + i < count; i += kGroups) {
        Pair sum = channel_pair(p.taps_bias, channel);
        NO_UNROLL for (int k = 0; k < 9; ++k) {
          const int row = (first + i) / columns + k / 3 - 1, column = (first + i) % columns + k % 3 - 1;
          if (!map.is_valid(row, column)) continue;
          const Pair z = context_pair(p, image, row, column, channel);
          const Pair tap = channel_pair(p.taps + k * kChannels, channel);
          sum.low += z.low * tap.low;
          sum.high += z.high * tap.high;
        }
        set_shared_float(convolved + i * kPadded + channel, sum.low);
        set_shared_float(convolved + i * kPadded + channel + 1, sum.high);
      }
  }
  BARRIER();
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups && channel < kChannels) {
      Pair sums[kOfThread];
      UNROLL for (int j = 0; j < kOfThread; ++j) sums[j] = channel_pair(p.pointwise_bias, channel);
      NO_UNROLL for (int c = 0; c < kChannels; ++c) {
        const Pair weight = channel_pair(p.pointwise + c * kChannels, channel);
        UNROLL for (int j = 0; j < kOfThread; ++j) {
          const int i = group + j * kGroups;
          const float z = first + i < count ? shared_float(convolved + i * kPadded + c) : 0.0f;
          sums[j].low += z * weight.low;
          sums[j].high += z * weight.high;
        }
      }
      UNROLL for (int j = 0; j < kOfThread; ++j) {
        const int pixel = first + group + j * kGroups;
        if (pixel >= count) continue;
        const i64 at = map.at(image, pixel / columns, pixel % columns);
        set_pixel_pair(p.summary + at, channel, sums[j].low, sums[j].high);
      }
    }
  }
}

DEVICE void run(const Arrays& p, Value* shared, Block block) {
  float* floats = reinterpret_cast<float*>(shared);
  if (block.x == 0)
    route(p, floats, block.z);
  else
    summarize(p, floats, block.z, (block.x - 1) * kPixels);
}

}  // namespace routing
}  // namespace seemore_gpu
