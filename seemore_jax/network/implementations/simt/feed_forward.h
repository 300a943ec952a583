// Gated feed-forward: x + GELU(project(values · depthwise3(gate))), where values and gate are the halves of
// GELU(expand(LN(x))).
#pragma once

#include "products.h"

namespace seemore_gpu {
namespace feed_forward {

constexpr int kTileHeight = SEEMORE_TILE_HEIGHT, kTileWidth = SEEMORE_TILE_WIDTH;
constexpr int kHaloWidth = kTileWidth + 2;
constexpr int kPixels = kTileHeight * kTileWidth;
constexpr int kHaloPixels = (kTileHeight + 2) * kHaloWidth, kHaloRows = round_up(kHaloPixels, 16);
// With one chunk of tiles, the gated values replace the pixels that they are computed from.
constexpr int kGatedRows = kOneChunk ? 0 : kPixels;
constexpr int kSharedBytes = (2 * kHaloRows + kGatedRows) * kPitch * sizeof(Value);
static_assert(kSharedBytes == SEEMORE_SHARED_BYTES, "the launch has another size of shared memory");

struct Arrays {
  const int *sizes, *region, *layer;
  const Value* x;
  const float *scale, *offset, *expand_bias, *taps, *taps_bias, *project_bias;
  const Value* matrices;  // for each layer, those to the values and to the gate, and the projection
  Value* result;
};

// Returns a pair of channels of the gate after the depthwise convolution, at a row of the tile with its neighbours.
DEVICE Pair gate_pair(const Arrays& p, const Value* gate, int row, int channel) {
  Pair sum = channel_pair(p.taps_bias, channel);
  UNROLL for (int k = 0; k < 9; ++k) {
    const Pair g = shared_pair(gate + (row + (k / 3 - 1) * kHaloWidth + k % 3 - 1) * kPitch + channel);
    const Pair tap = channel_pair(p.taps + k * kChannels, channel);
    sum.low += g.low * tap.low;
    sum.high += g.high * tap.high;
  }
  return sum;
}

DEVICE void run(const Arrays& p, Value* shared, Block block) {
  const Map map = map_of(p.sizes, p.region);
  const int top = block.y * kTileHeight, left = block.x * kTileWidth;
  const Value *expand = p.matrices + *p.layer * 3 * kMatrix, *project = expand + 2 * kMatrix;
  Value *input = shared, *gate = shared + kHaloRows * kPitch, *gated = gate + kHaloRows * kPitch;

  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kHaloRows; first += 16 * kWarps) {
      normalize(input + first * kPitch, p.x, p.scale, p.offset, [&](int i) {
        const int pixel = first + i, row = top - 1 + pixel / kHaloWidth, column = left - 1 + pixel % kHaloWidth;
        const bool is_read = pixel < kHaloPixels && row >= 0 && column >= 0 && map.has(row, column);
        return Place{is_read, map.at(block.z, row, column)};
      });
      WARP_BARRIER();
      const RowOffsets rows = offsets([=](int i) { return first + i; });
      const Value* weights = expand + kMatrix;
      multiply<kTiles>(input, rows, weights, [&](int, int, int i, int channel, float low, float high) {
        const int pixel = first + i, row = top - 1 + pixel / kHaloWidth, column = left - 1 + pixel % kHaloWidth;
        const bool is_valid = pixel < kHaloPixels && map.is_valid(row, column);
        const Pair bias = channel < kChannels
                              ? Pair{p.expand_bias[kChannels + channel],
                                     channel + 1 < kChannels ? p.expand_bias[kChannels + channel + 1] : 0.0f}
                              : Pair{0.0f, 0.0f};
        set_shared_pair(gate + pixel * kPitch + channel, is_valid ? gelu(low + bias.low) : 0.0f,
                        is_valid ? gelu(high + bias.high) : 0.0f);
      });
    }
  }
  BARRIER();
  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kPixels; first += 16 * kWarps) {
      const auto halo_row = [=](int i) {
        const int pixel = first + i;
        return (pixel / kTileWidth + 1) * kHaloWidth + pixel % kTileWidth + 1;
      };
      const RowOffsets rows = offsets(halo_row);
      const auto gated_row = [=](int i) { return kOneChunk ? halo_row(i) : first + i; };
      Value* product = kOneChunk ? input : gated;
      multiply<kTiles>(input, rows, expand, [&](int, int, int i, int channel, float low, float high) {
        const Pair bias = channel_pair(p.expand_bias, channel);
        const Pair g = gate_pair(p, gate, halo_row(i), channel);
        set_shared_pair(product + gated_row(i) * kPitch + channel, gelu(low + bias.low) * g.low,
                        gelu(high + bias.high) * g.high);
      });
      clear_padding<kTiles>(product, gated_row);
      WARP_BARRIER();
      multiply<kTiles>(product, offsets(gated_row), project, [&](int, int, int i, int channel, float low, float high) {
        const int row = top + (first + i) / kTileWidth, column = left + (first + i) % kTileWidth;
        if (!map.has(row, column) || channel >= kChannels) return;
        const i64 at = map.at(block.z, row, column);
        const Pair bias = channel_pair(p.project_bias, channel), x = pixel_pair(p.x + at, channel);
        set_pixel_pair(p.result + at, channel, x.low + gelu(low + bias.low), x.high + gelu(high + bias.high));
      });
    }
  }
}

}  // namespace feed_forward
}  // namespace seemore_gpu
