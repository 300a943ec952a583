// Runs one of the kernels for GPUs on arrays of odd sizes, under sanitizers, and records its accesses to shared memory.
// If it fails, the kernel accesses memory beyond its arrays, returns values that nobody has computed, or lacks a
// barrier.

#define SEEMORE_RECORDER "gpu_recorder.h"
#include "host.h"

#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

using namespace seemore_gpu;

namespace {

constexpr int kLayers = 2;  // whose weights are in one array; the kernels compute the second
constexpr int kImages = 2, kHeight = 19, kWidth = 21, kSummaryHeight = 3, kSummaryWidth = 4;

// An array of bytes on the heap, of exactly this size, so that the address sanitizer knows its end.
struct Memory {
  std::unique_ptr<char, void (*)(void*)> bytes{nullptr, std::free};
  size_t size = 0;
};

struct Arrays {
  std::vector<Memory> all;
  uint32_t random = 1;

  char* add(size_t size) {
    Memory memory;
    memory.bytes.reset(static_cast<char*>(std::malloc(size)));
    memory.size = size;
    all.push_back(std::move(memory));
    return all.back().bytes.get();
  }
  void add_integers(const std::vector<int>& values) {
    std::memcpy(add(4 * values.size()), values.data(), 4 * values.size());
  }
  float next() {
    random = random * 1664525u + 1013904223u;
    return static_cast<float>(random >> 8) / (1 << 23) - 1.0f;
  }
  void add_floats(size_t count) {
    char* at = add(4 * count);
    for (size_t i = 0; i < count; ++i) {
      const float value = next();
      std::memcpy(at + 4 * i, &value, 4);
    }
  }
  void add_values(size_t count) {
    char* at = add(sizeof(Value) * count);
    for (size_t i = 0; i < count; ++i) {
      const Value value = narrowed(next());
      std::memcpy(at + sizeof(Value) * i, &value, sizeof(Value));
    }
  }
  // `count` matrices of C rows.
  void add_matrices(size_t count, int columns) { add_values(count * kSteps * tiles_of(columns) * kFragment); }
  void add_map() { add_values(static_cast<size_t>(kImages) * kHeight * kWidth * kChannels); }
  void add_filter(int length) {
    add_floats(static_cast<size_t>(length) * kChannels);
    add_floats(kChannels);
  }
};

// Adds all arrays; returns the number of the inputs.
size_t add_all(Arrays& arrays, const std::string& kernel) {
  constexpr int across = (kWidth + SEEMORE_TILE_WIDTH - 1) / SEEMORE_TILE_WIDTH;
  constexpr int down = (kHeight + SEEMORE_TILE_HEIGHT - 1) / SEEMORE_TILE_HEIGHT;
  constexpr int lines = (kHeight * kWidth + SEEMORE_TILE_WIDTH - 1) / SEEMORE_TILE_WIDTH;
  constexpr int pixels = kSummaryHeight * kSummaryWidth, tiles = 5;
  const bool is_experts = kernel == "experts", is_routing = kernel == "routing";
  if (is_routing) {
    const int blocks = 1 + (pixels + SEEMORE_TILE_WIDTH - 1) / SEEMORE_TILE_WIDTH;
    arrays.add_integers({tiles, 1, blocks, 1, kImages, kSummaryHeight, kSummaryWidth, kHeight, kWidth});
  } else {
    const int x = is_experts ? lines : across, y = is_experts ? 1 : down;
    arrays.add_integers({kHeight, kWidth, x, y, kImages, kSummaryHeight, kSummaryWidth});
  }
  arrays.add_integers({kHeight - 2, kWidth - 3, 1, kHeight - 3, kSummaryHeight - 1, kSummaryWidth});
  if (is_routing) {
    arrays.add_floats(kImages * tiles * kChannels);
    arrays.add_map();
    arrays.add_floats(kChannels * SEEMORE_EXPERTS);
    for (int length : {16, 9, kChannels}) arrays.add_filter(length);
    const size_t inputs = arrays.all.size();
    arrays.add_floats(kImages * SEEMORE_EXPERTS);
    arrays.add_values(static_cast<size_t>(kImages) * pixels * kChannels);
    return inputs;
  }
  arrays.add_integers({1});  // the index of the layer
  arrays.add_map();
  const auto norm = [&] {
    arrays.add_floats(kChannels);
    arrays.add_floats(kChannels);
  };
  if (kernel == "embedding") {
    norm();
    arrays.add_floats(kChannels);
    for (int length : {3, 3, 16}) arrays.add_filter(length);
    arrays.add_matrices(kLayers * 11, kChannels);
    arrays.add_floats(kLayers * 2 * kChannels);
  } else if (is_experts) {
    constexpr int rank = SEEMORE_LENGTH;
    arrays.add_map();
    arrays.add_map();
    arrays.add_values(static_cast<size_t>(kImages) * kSummaryHeight * kSummaryWidth * kChannels);
    for (int size : {kHeight, kWidth}) {
      std::vector<int> above(size);
      for (int i = 0; i < size; ++i) above[i] = i / 8;
      arrays.add_integers(above);
      arrays.add_floats(size);
    }
    arrays.add_floats(kImages * SEEMORE_EXPERTS);
    arrays.add_floats(kChannels);
    constexpr int experts = kLayers * SEEMORE_EXPERTS;
    arrays.add_matrices(2 * experts, rank);
    arrays.add_floats(2 * experts * rank);
    arrays.add_values(static_cast<size_t>(experts) * (round_up(rank, 16) / 16) * kTiles * kFragment);
    arrays.add_floats(experts * kChannels);
    arrays.add_matrices(kLayers, kChannels);
  } else {
    norm();
    arrays.add_floats(2 * kChannels);
    const bool is_enhancement = kernel == "enhancement";
    arrays.add_filter(is_enhancement ? SEEMORE_LENGTH : 9);
    if (is_enhancement) arrays.add_filter(SEEMORE_LENGTH);
    arrays.add_floats(kChannels);
    arrays.add_matrices(kLayers * 3, kChannels);
  }
  const size_t inputs = arrays.all.size();
  arrays.add_map();
  if (kernel == "embedding") {
    arrays.add_map();
    arrays.add_floats(static_cast<size_t>(kImages) * across * down * kChannels);
    arrays.add_values(static_cast<size_t>(kImages) * (kHeight / 4) * (kWidth / 4) * kChannels);
  }
  return inputs;
}

int failures = 0;

void expect(bool holds, const char* what) {
  if (holds) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

// Runs the kernel; returns the number of conflicts.
long run(const Arrays& arrays) {
  std::vector<void*> addresses;
  for (const Memory& memory : arrays.all) addresses.push_back(memory.bytes.get());
  recorder::state.conflicts = recorder::state.accesses = 0;
  run_on_host(addresses.data());
  return recorder::state.conflicts;
}

}  // namespace

int main() {
  const std::string kernel = SEEMORE_NAME;
  Arrays arrays;
  const size_t inputs = add_all(arrays, kernel);
  expect(static_cast<int>(arrays.all.size()) == kArrays, "the arrays are those of the kernel");
  for (size_t i = inputs; i < arrays.all.size(); ++i) std::memset(arrays.all[i].bytes.get(), 0xff, arrays.all[i].size);
  expect(run(arrays) == 0, "no two threads conflict");
  expect(recorder::state.accesses > 1000, "accesses are recorded");
  for (size_t i = inputs; i < arrays.all.size(); ++i) {
    // The sums, and the probabilities.
    const bool is_float = (kernel == "embedding" && i == inputs + 2) || (kernel == "routing" && i == inputs);
    const size_t size = is_float ? sizeof(float) : sizeof(Value);
    for (size_t at = 0; at < arrays.all[i].size; at += size) {
      const char* bytes = arrays.all[i].bytes.get() + at;
      float value;
      Value narrow;
      std::memcpy(&narrow, bytes, sizeof narrow);
      if (is_float)
        std::memcpy(&value, bytes, sizeof value);
      else
        value = widened(narrow);
      if (!std::isfinite(value)) {
        expect(false, "all values are computed, and finite");
        break;
      }
    }
  }
  const int barriers = recorder::state.most_barriers;
  for (int i = 1; i <= barriers; ++i) {
    recorder::state.left_out = i;
    expect(run(arrays) > 0, "a missing barrier is noticed");
  }
  recorder::state.left_out = 0;
  recorder::state.without_warp_barriers = true;
  // In bfloat16, each lane multiplies only what it has written itself.
  if (kernel != "embedding" && kernel != "routing" && !SEEMORE_BFLOAT16)
    expect(run(arrays) > 0, "missing barriers of warps are noticed");
  std::printf("%s: %ld accesses, %d barriers in a block, %d failures\n", kernel.c_str(), recorder::state.accesses,
              barriers, failures);
  return failures != 0;
}
