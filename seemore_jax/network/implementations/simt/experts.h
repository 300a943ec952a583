// The chosen experts of each image: x + project(features) + Σ p · up(low_rank), where low_rank =
// from_features(features) · from_context(context + summary), and the summary is resized bilinearly to the size of the
// image. The sum is over the SEEMORE_TOPK most probable of SEEMORE_EXPERTS experts, whose rank is SEEMORE_LENGTH; `up`
// includes the projection.
#pragma once

#include "products.h"

namespace seemore_gpu {
namespace experts {

constexpr int kPixels = SEEMORE_TILE_HEIGHT * SEEMORE_TILE_WIDTH;  // consecutive pixels
constexpr int kExperts = SEEMORE_EXPERTS, kTop = SEEMORE_TOPK;
constexpr int kRank = SEEMORE_LENGTH, kPaddedRank = round_up(kRank, 16), kRankPitch = pitch_of(kTop * kPaddedRank);
constexpr int kRankTiles = tiles_of(kRank), kRankSteps = kPaddedRank / 16;
constexpr int kDown = kSteps * kRankTiles * kFragment, kUp = kRankSteps * kTiles * kFragment;  // values of matrices
constexpr int kSharedBytes = kPixels * (2 * kPitch + kRankPitch) * sizeof(Value);
static_assert(kSharedBytes == SEEMORE_SHARED_BYTES, "the launch has another size of shared memory");

// Positions of the rows or of the columns of an image in the summary.
struct Positions {
  const int* above;      // index of the value above or to the left
  const float* weights;  // of the value below or to the right
};

struct Arrays {
  const int *sizes, *region, *group;  // the region ends with the height and the width of the summary
  const Value *x, *features, *context, *summary;
  Positions rows, columns;
  const float* probabilities;  // for each image
  const float* project_bias;
  // For each residual group and expert; `down` are the matrices and biases from features and from context.
  const Value* down;
  const float* down_bias;
  const Value* up;
  const float* up_bias;
  const Value* project;  // for each residual group
  Value* result;
};

// Returns a pair of channels of the summary at a pixel.
DEVICE Pair summary_pair(const Arrays& p, const Value* summary, int row, int column, int channel) {
  const int height = p.sizes[5], width = p.sizes[6];
  const int top = p.rows.above[row], left = p.columns.above[column];
  const int bottom = top + 1 < p.region[4] ? top + 1 : p.region[4] - 1;
  const int right = left + 1 < p.region[5] ? left + 1 : p.region[5] - 1;
  const float down = p.rows.weights[row], across = p.columns.weights[column];
  // Beyond the valid region, the positions are arbitrary.
  const auto at = [&](int i, int j) {
    i = i < 0 ? 0 : i < height ? i : height - 1;
    j = j < 0 ? 0 : j < width ? j : width - 1;
    return pixel_pair(summary + (static_cast<i64>(i) * width + j) * kChannels, channel);
  };
  const Pair a = at(top, left), b = at(top, right), c = at(bottom, left), d = at(bottom, right);
  const float above = 1.0f - down, before = 1.0f - across;
  return {above * (before * a.low + across * b.low) + down * (before * c.low + across * d.low),
          above * (before * a.high + across * b.high) + down * (before * c.high + across * d.high)};
}

// The experts of an image, the most probable one first; of equally probable ones, that with the lowest index.
struct Choice {
  int of[kTop];  // their indices in the arrays of all groups
  float probability[kTop];
};

DEVICE Choice choose(const float* probabilities, int group) {
  Choice choice;
  UNROLL for (int k = 0; k < kTop; ++k) {
    int best = -1;
    NO_UNROLL for (int expert = 0; expert < kExperts; ++expert) {
      bool is_chosen = false;
      UNROLL for (int j = 0; j < k; ++j) is_chosen |= choice.of[j] == group * kExperts + expert;
      if (!is_chosen && (best < 0 || probabilities[expert] > probabilities[best])) best = expert;
    }
    choice.of[k] = group * kExperts + best;
    choice.probability[k] = probabilities[best];
  }
  return choice;
}

DEVICE void run(const Arrays& p, Value* shared, Block block) {
  const int rows = p.sizes[0], columns = p.sizes[1];
  const int count = rows * columns, start = block.x * kPixels;
  const i64 image = static_cast<i64>(block.z) * count * kChannels;
  const Value* summary = p.summary + static_cast<i64>(block.z) * p.sizes[5] * p.sizes[6] * kChannels;
  Value *features = shared, *context = features + kPixels * kPitch, *low_rank = context + kPixels * kPitch;
  const Value* project = p.project + *p.group * kMatrix;
  const Choice choice = choose(p.probabilities + block.z * kExperts, *p.group);

  FOR_WARPS(warp) {
    for (int first = 16 * warp; first < kPixels; first += 16 * kWarps) {
      UNROLL for (int n = 0; n < kPadded / 8; ++n) FOR_LANES(l, lane) {
        UNROLL for (int i = 0; i < 2; ++i) {
          const int row = first + lane / 4 + 8 * i, pixel = start + row, channel = 8 * n + 2 * (lane % 4);
          Pair f = {0.0f, 0.0f}, z = {0.0f, 0.0f};
          if (pixel < count && channel < kChannels) {
            const i64 at = image + static_cast<i64>(pixel) * kChannels;
            const Pair s = summary_pair(p, summary, pixel / columns, pixel % columns, channel);
            f = pixel_pair(p.features + at, channel);
            z = pixel_pair(p.context + at, channel);
            z = {z.low + s.low, z.high + s.high};
          }
          set_shared_pair(features + row * kPitch + channel, f.low, f.high);
          set_shared_pair(context + row * kPitch + channel, z.low, z.high);
        }
      }
      WARP_BARRIER();
      const RowOffsets pixels = offsets([=](int i) { return first + i; });
      UNROLL for (int k = 0; k < kTop; ++k) {
        const int expert = choice.of[k];
        const auto at = [=](int row, int column) {
          return low_rank + (first + row) * kRankPitch + k * kPaddedRank + column;
        };
        const Value* matrices = p.down + static_cast<i64>(2 * expert) * kDown;
        const float* biases = p.down_bias + 2 * expert * kRank;
        multiply<kRankTiles>(features, pixels, matrices, [&](int, int, int row, int column, float low, float high) {
          const Pair bias = vector_pair(biases, column, kRank);
          set_shared_pair(at(row, column), low + bias.low, high + bias.high);
        });
        // Each lane multiplies what it has written itself.
        multiply<kRankTiles>(
            context, pixels, matrices + kDown, [&](int, int, int row, int column, float low, float high) {
              const Pair bias = vector_pair(biases + kRank, column, kRank), other = shared_pair(at(row, column));
              const float weight = choice.probability[k];
              set_shared_pair(at(row, column), weight * ((low + bias.low) * other.low),
                              weight * ((high + bias.high) * other.high));
            });
        UNROLL for (int n = kRankTiles; n < kPaddedRank / 8; ++n) FOR_LANES(l, lane) {
          UNROLL for (int i = 0; i < 2; ++i) set_shared_pair(at(lane / 4 + 8 * i, 8 * n + 2 * (lane % 4)), 0.0f, 0.0f);
        }
      }
      WARP_BARRIER();
      RowOffsets ranks;
      FOR_LANES(l, lane) {
        UNROLL for (int i = 0; i < 2; ++i) ranks.of[l][i] = (first + lane / 4 + 8 * i) * kRankPitch;
      }
      multiply<kTiles>(
          [&](auto& sums, int tile, int tiles) {
            accumulate<kSteps>(sums, features, pixels, project + tile * kFragment, kTiles, tiles);
            UNROLL for (int k = 0; k < kTop; ++k) {
              const Value* up = p.up + static_cast<i64>(choice.of[k]) * kUp + tile * kFragment;
              accumulate<kRankSteps>(sums, low_rank + k * kPaddedRank, ranks, up, kTiles, tiles);
            }
          },
          [&](int, int, int row, int channel, float low, float high) {
            const int pixel = start + first + row;
            if (pixel >= count || channel >= kChannels) return;
            const i64 at = image + static_cast<i64>(pixel) * kChannels;
            const Pair x = pixel_pair(p.x + at, channel);
            Pair bias = channel_pair(p.project_bias, channel);
            UNROLL for (int k = 0; k < kTop; ++k) {
              const Pair more = channel_pair(p.up_bias + choice.of[k] * kChannels, channel);
              bias.low += choice.probability[k] * more.low;
              bias.high += choice.probability[k] * more.high;
            }
            set_pixel_pair(p.result + at, channel, x.low + (low + bias.low), x.high + (high + bias.high));
          });
    }
  }
}

}  // namespace experts
}  // namespace seemore_gpu
