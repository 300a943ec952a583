// Spatial enhancement: x + project(striped(query) · value), where query and value are the halves of
// GELU(expand(LN(x))). SEEMORE_LENGTH is the length of the filters.
#pragma once

#include "products.h"

namespace seemore_gpu {
namespace enhancement {

constexpr int kTileHeight = SEEMORE_TILE_HEIGHT, kTileWidth = SEEMORE_TILE_WIDTH;
constexpr int kLength = SEEMORE_LENGTH, kReach = kLength / 2;
constexpr int kLines = kTileHeight + 2 * kReach, kLineWidth = kTileWidth + 2 * kReach;
constexpr int kPixels = kTileHeight * kTileWidth;
// The query is computed, and filtered along its rows, for a few lines at a time.
constexpr int kLinesAtOnce = SEEMORE_LINES, kWorkPixels = kLinesAtOnce * kLineWidth;
constexpr int kAtOnce = kPixels < 16 * kWarps ? kPixels : 16 * kWarps;  // pixels of the tile with their values
constexpr int kWorkRows = round_up(kWorkPixels, 16) > kAtOnce ? round_up(kWorkPixels, 16) : kAtOnce;
constexpr int kSharedBytes = (kLines * kTileWidth + 2 * kWorkRows) * kPitch * sizeof(Value);
static_assert(kSharedBytes == SEEMORE_SHARED_BYTES, "the launch has another size of shared memory");

struct Arrays {
  const int *sizes, *region, *group;
  const Value* x;
  const float *scale, *offset, *expand_bias, *row, *row_bias, *column, *column_bias, *project_bias;
  const Value* matrices;  // for each residual group, those to the query and to the value, and the projection
  Value* result;
};

// Computes striped · value and projects it, for 16 pixels of the tile. `input` and `product` are 16 rows of the warp.
DEVICE void project(const Arrays& p, const Map& map, Block block, int first, Value* input, Value* product,
                    const Value* striped) {
  const auto same = [](int i) { return i; };
  const auto row_of = [=](int i) { return block.y * kTileHeight + (first + i) / kTileWidth; };
  const auto column_of = [=](int i) { return block.x * kTileWidth + (first + i) % kTileWidth; };
  normalize(input, p.x, p.scale, p.offset,
            [&](int i) { return Place{map.has(row_of(i), column_of(i)), map.at(block.z, row_of(i), column_of(i))}; });
  WARP_BARRIER();
  const RowOffsets rows = offsets(same);
  const Value* weights = p.matrices + (3 * *p.group + 1) * kMatrix;
  multiply<kTiles>(input, rows, weights, [&](int, int, int i, int channel, float low, float high) {
    const Pair bias = channel < kChannels
                          ? Pair{p.expand_bias[kChannels + channel],
                                 channel + 1 < kChannels ? p.expand_bias[kChannels + channel + 1] : 0.0f}
                          : Pair{0.0f, 0.0f};
    const Pair s = shared_pair(striped + (first + i) * kPitch + channel);
    set_shared_pair(product + i * kPitch + channel, s.low * gelu(low + bias.low), s.high * gelu(high + bias.high));
  });
  clear_padding<kTiles>(product, same);
  WARP_BARRIER();
  multiply<kTiles>(product, rows, p.matrices + (3 * *p.group + 2) * kMatrix,
                   [&](int, int, int i, int channel, float low, float high) {
                     if (!map.has(row_of(i), column_of(i)) || channel >= kChannels) return;
                     const i64 at = map.at(block.z, row_of(i), column_of(i));
                     const Pair bias = channel_pair(p.project_bias, channel), x = pixel_pair(p.x + at, channel);
                     set_pixel_pair(p.result + at, channel, x.low + (low + bias.low), x.high + (high + bias.high));
                   });
}

DEVICE void run(const Arrays& p, Value* shared, Block block) {
  const Map map = map_of(p.sizes, p.region);
  const int top = block.y * kTileHeight - kReach, left = block.x * kTileWidth - kReach;
  Value *striped = shared, *input = striped + kLines * kTileWidth * kPitch, *query = input + kWorkRows * kPitch;

  NO_UNROLL for (int line = 0; line < kLines; line += kLinesAtOnce) {
    const auto place_of = [=](int pixel) {
      const int row = top + line + pixel / kLineWidth, column = left + pixel % kLineWidth;
      const bool is_in_tile = pixel < kWorkPixels && line + pixel / kLineWidth < kLines;
      return Place{is_in_tile && map.is_valid(row, column), map.at(block.z, row, column)};
    };
    FOR_WARPS(warp) {
      for (int first = 16 * warp; first < kWorkPixels; first += 16 * kWarps) {
        normalize(input + first * kPitch, p.x, p.scale, p.offset, [&](int i) { return place_of(first + i); });
        WARP_BARRIER();
        const RowOffsets rows = offsets([=](int i) { return first + i; });
        multiply<kTiles>(
            input, rows, p.matrices + 3 * *p.group * kMatrix, [&](int, int, int i, int channel, float low, float high) {
              const bool is_valid = place_of(first + i).is_read;
              const Pair bias = channel_pair(p.expand_bias, channel);
              set_shared_pair(query + (first + i) * kPitch + channel, is_valid ? gelu(low + bias.low) : 0.0f,
                              is_valid ? gelu(high + bias.high) : 0.0f);
            });
      }
    }
    BARRIER();
    FOR_THREADS(thread) {
      const int channel = thread % kPairs * 2, group = thread / kPairs;
      if (group < kGroups && channel < 8 * kTiles)
        for (int i = group; i < kLinesAtOnce && line + i < kLines; i += kGroups) {
          const Value* from = query + i * kLineWidth * kPitch + channel;
          Value* to = striped + (line + i) * kTileWidth * kPitch + channel;
          const bool is_valid = top + line + i >= 0 && top + line + i < map.height;
          filter<kLength>(
              kTileWidth, p.row, p.row_bias, channel, [&](int j) { return shared_pair(from + j * kPitch); },
              [&](int j, float low, float high) {
                set_shared_pair(to + j * kPitch, is_valid ? low : 0.0f, is_valid ? high : 0.0f);
              });
        }
    }
    BARRIER();
  }
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups && channel < 8 * kTiles)
      for (int j = group; j < kTileWidth; j += kGroups) {
        // The filter works in place: it writes a row only after it has read that row for the last time.
        Value* line = striped + j * kPitch + channel;
        filter<kLength>(
            kTileHeight, p.column, p.column_bias, channel,
            [&](int i) { return shared_pair(line + i * kTileWidth * kPitch); },
            [&](int i, float low, float high) { set_shared_pair(line + i * kTileWidth * kPitch, low, high); });
      }
  }
  BARRIER();
  FOR_WARPS(warp) {
    NO_UNROLL for (int first = 16 * warp; first < kPixels; first += 16 * kWarps) {
      project(p, map, block, first, input + 16 * warp * kPitch, query + 16 * warp * kPitch, striped);
      WARP_BARRIER();
    }
  }
}

}  // namespace enhancement
}  // namespace seemore_gpu
