// The first kernel of a residual group: e = GELU(conv3(LN(x))), (a, z) = conv1(e), features = GELU(striped(a)), and the
// context z with its first reduction by 4, GELU(depthwise4(z)); and the sum of the features over the image.
#pragma once

#include "products.h"

namespace seemore_gpu {

constexpr int kTileHeight = SEEMORE_TILE_HEIGHT, kTileWidth = SEEMORE_TILE_WIDTH;

namespace embedding {

constexpr int kEmbeddedHeight = kTileHeight + 2, kEmbeddedWidth = kTileWidth + 2;
constexpr int kInputHeight = kTileHeight + 4, kInputWidth = kTileWidth + 4;
constexpr int kEmbeddedPixels = kEmbeddedHeight * kEmbeddedWidth, kEmbeddedRows = round_up(kEmbeddedPixels, 16);
constexpr int kInputPixels = kInputHeight * kInputWidth, kInputRows = round_up(kInputPixels, 16);
constexpr int kSharedBytes = (kInputRows + kEmbeddedRows) * kPitch * sizeof(Value);
static_assert(kSharedBytes == SEEMORE_SHARED_BYTES, "the launch has another size of shared memory");
static_assert(kGroups * kPadded * 4 <= kInputRows * kPitch * static_cast<int>(sizeof(Value)), "the sums have no room");
static_assert(kTileHeight % 4 == 0 && kTileWidth % 4 == 0, "a tile has whole cells of the reduction");

struct Arrays {
  const int *sizes, *region, *group;
  const Value* x;
  const float *scale, *offset, *bias, *row, *row_bias, *column, *column_bias, *reduction, *reduction_bias;
  const Value* matrices;     // for each residual group, nine of the convolution, and those to a and to z
  const float* expand_bias;  // for each residual group
  Value *features, *context;
  float* sums;  // for each image and tile
  Value* reduced;
};

// Reduces the context of the tile, which this block has written, by 4.
DEVICE void reduce(const Arrays& p, const Map& map, Block block, int group, int channel) {
  constexpr int kCells = kTileWidth / 4;
  for (int i = group; i < kTileHeight / 4 * kCells; i += kGroups) {
    const int row = block.y * (kTileHeight / 4) + i / kCells, column = block.x * kCells + i % kCells;
    if (row >= map.rows / 4 || column >= map.columns / 4) continue;
    Pair sum = channel_pair(p.reduction_bias, channel);
    NO_UNROLL for (int k = 0; k < 16; ++k) {
      const Pair z = pixel_pair(p.context + map.at(block.z, 4 * row + k / 4, 4 * column + k % 4), channel);
      const Pair tap = channel_pair(p.reduction + k * kChannels, channel);
      sum.low += z.low * tap.low;
      sum.high += z.high * tap.high;
    }
    const i64 cell = (static_cast<i64>(block.z) * (map.rows / 4) + row) * (map.columns / 4) + column;
    set_pixel_pair(p.reduced + cell * kChannels, channel, gelu(sum.low), gelu(sum.high));
  }
}

// conv3 and GELU, for 16 pixels of the embedded tile with its neighbours.
DEVICE void embed(const Arrays& p, const Value* kernel, const Value* input, Value* embedded, int first) {
  const auto row_of = [=](int i) { return first + i; };
  const auto epilogue = [&](int, int, int row, int column, float low, float high) {
    const Pair bias = channel_pair(p.bias, column);
    set_shared_pair(embedded + (first + row) * kPitch + column, gelu(low + bias.low), gelu(high + bias.high));
  };
  const RowOffsets corners = offsets([=](int i) {
    const int pixel = first + i < kEmbeddedPixels ? first + i : kEmbeddedPixels - 1;
    return pixel / kEmbeddedWidth * kInputWidth + pixel % kEmbeddedWidth;
  });
  multiply<kTiles>(
      [&](auto& sums, int tile, int count) {
        NO_UNROLL for (int tap = 0; tap < 9; ++tap) {
          const Value* corner = input + (tap / 3 * kInputWidth + tap % 3) * kPitch;
          accumulate<kSteps>(sums, corner, corners, kernel + (tap * kSteps * kTiles + tile) * kFragment, kTiles, count);
        }
      },
      epilogue);
  clear_padding<kTiles>(embedded, row_of);
}

DEVICE void run(const Arrays& p, Value* shared, Block block) {
  const Map map = map_of(p.sizes, p.region);
  const int top = block.y * kTileHeight, left = block.x * kTileWidth;
  Value *input = shared, *embedded = shared + kInputRows * kPitch;
  Value *local = input, *along_row = embedded;  // later
  float* partial = reinterpret_cast<float*>(input);
  const Value *kernel = p.matrices + *p.group * 11 * kMatrix, *expand = kernel + 9 * kMatrix;
  const float* expand_bias = p.expand_bias + *p.group * 2 * kChannels;

  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kInputRows; first += 16 * kWarps)
      normalize(input + first * kPitch, p.x, p.scale, p.offset, [&](int i) {
        const int pixel = first + i, row = top - 2 + pixel / kInputWidth, column = left - 2 + pixel % kInputWidth;
        return Place{pixel < kInputPixels && map.is_valid(row, column), map.at(block.z, row, column)};
      });
  }
  BARRIER();
  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kEmbeddedRows; first += 16 * kWarps) embed(p, kernel, input, embedded, first);
  }
  BARRIER();
  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kEmbeddedRows; first += 16 * kWarps) {
      const RowOffsets rows = offsets([=](int i) { return first + i; });
      multiply<kTiles>(embedded, rows, expand, [&](int, int, int i, int channel, float low, float high) {
        const int pixel = first + i, row = top - 1 + pixel / kEmbeddedWidth, column = left - 1 + pixel % kEmbeddedWidth;
        const bool is_valid = pixel < kEmbeddedPixels && map.is_valid(row, column);
        const Pair bias = channel_pair(expand_bias, channel);
        set_shared_pair(local + pixel * kPitch + channel, is_valid ? low + bias.low : 0.0f,
                        is_valid ? high + bias.high : 0.0f);
      });
    }
    for (int first = 16 * warp; first < kTileHeight * kTileWidth; first += 16 * kWarps) {
      const RowOffsets rows = offsets([=](int i) {
        const int pixel = first + i;
        return (pixel / kTileWidth + 1) * kEmbeddedWidth + pixel % kTileWidth + 1;
      });
      const Value* weights = expand + kMatrix;
      multiply<kTiles>(embedded, rows, weights, [&](int, int, int i, int channel, float low, float high) {
        const int row = top + (first + i) / kTileWidth, column = left + (first + i) % kTileWidth;
        if (!map.has(row, column) || channel >= kChannels) return;
        const Pair bias = {expand_bias[kChannels + channel],
                           channel + 1 < kChannels ? expand_bias[kChannels + channel + 1] : 0.0f};
        set_pixel_pair(p.context + map.at(block.z, row, column), channel, low + bias.low, high + bias.high);
      });
    }
  }
  BARRIER();  // for shared memory, and for the context in global memory
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups && channel < 8 * kTiles) {
      for (int i = group; i < kEmbeddedHeight; i += kGroups) {
        const Value* line = local + i * kEmbeddedWidth * kPitch + channel;
        const bool is_valid = top - 1 + i >= 0 && top - 1 + i < map.height;
        filter<3>(
            kTileWidth, p.row, p.row_bias, channel, [&](int j) { return shared_pair(line + j * kPitch); },
            [&](int j, float low, float high) {
              set_shared_pair(along_row + (i * kTileWidth + j) * kPitch + channel, is_valid ? low : 0.0f,
                              is_valid ? high : 0.0f);
            });
      }
      reduce(p, map, block, group, channel);
    }
  }
  BARRIER();
  FOR_THREADS(thread) {
    const int channel = thread % kPairs * 2, group = thread / kPairs;
    if (group < kGroups && channel < 8 * kTiles) {
      Pair sum = {0.0f, 0.0f};
      for (int j = group; j < kTileWidth; j += kGroups) {
        const Value* line = along_row + j * kPitch + channel;
        filter<3>(
            kTileHeight, p.column, p.column_bias, channel,
            [&](int i) { return shared_pair(line + i * kTileWidth * kPitch); },
            [&](int i, float low, float high) {
              const int row = top + i, column = left + j;
              if (!map.has(row, column)) return;
              low = gelu(low);
              high = gelu(high);
              set_pixel_pair(p.features + map.at(block.z, row, column), channel, low, high);
              if (row < p.region[2] || row >= p.region[3] || column >= map.width) return;
              sum.low += low;
              sum.high += high;
            });
      }
      set_shared_float(partial + group * kPadded + channel, sum.low);
      set_shared_float(partial + group * kPadded + channel + 1, sum.high);
    }
  }
  BARRIER();
  FOR_THREADS(thread) {
    const int across = p.sizes[2], tiles = across * p.sizes[3], tile = block.y * across + block.x;
    for (int channel = thread; channel < kChannels; channel += kThreads) {
      float sum = 0.0f;
      for (int group = 0; group < kGroups; ++group) sum += shared_float(partial + group * kPadded + channel);
      p.sums[(static_cast<i64>(block.z) * tiles + tile) * kChannels + channel] = sum;
    }
  }
}

}  // namespace embedding
}  // namespace seemore_gpu
