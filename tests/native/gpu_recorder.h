// Records which thread reads and writes which word of shared memory between two barriers. Two threads conflict if both
// access a word, at least one of them writes it, and no barrier is between; for threads of one warp, a barrier of the
// warp is enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace recorder {

struct Access {
  int thread, warp_phase;
  bool is_write;
};

struct State {
  const char* begin = nullptr;
  std::vector<std::vector<Access>> words;  // since the last barrier
  int thread = 0, warp = 0, barriers = 0, most_barriers = 0;
  std::vector<int> warp_phases = std::vector<int>(32);
  long accesses = 0, conflicts = 0;
  // The test leaves out the barrier with this number, or all barriers of warps, and expects that a conflict is found.
  int left_out = 0;
  bool without_warp_barriers = false;
};

inline State state;

inline void enter_block(const void* shared, int bytes) {
  state.begin = static_cast<const char*>(shared);
  state.words.assign((bytes + 3) / 4, {});
  state.barriers = 0;
}
inline bool enter_warp(int warp) {
  state.warp = warp;
  return true;
}
inline bool enter_lane(int lane) {
  state.thread = 32 * state.warp + lane;
  return true;
}
inline bool enter_thread(int thread) {
  state.thread = thread;
  state.warp = thread / 32;
  return true;
}

inline void barrier() {
  ++state.barriers;
  if (state.barriers > state.most_barriers) state.most_barriers = state.barriers;
  if (state.barriers == state.left_out) return;
  for (auto& word : state.words) word.clear();
}
inline void warp_barrier() {
  if (!state.without_warp_barriers) ++state.warp_phases[state.warp];
}

inline void record(const void* at, int bytes, bool is_write) {
  const std::ptrdiff_t first = static_cast<const char*>(at) - state.begin;
  const Access mine{state.thread, state.warp_phases[state.warp], is_write};
  for (std::ptrdiff_t word = first / 4; word <= (first + bytes - 1) / 4; ++word) {
    ++state.accesses;
    bool is_known = false;
    for (const Access& other : state.words.at(word)) {
      is_known |= other.thread == mine.thread && other.warp_phase == mine.warp_phase && other.is_write == is_write;
      const bool is_ordered = other.thread / 32 == mine.thread / 32 && other.warp_phase != mine.warp_phase;
      if (other.thread != mine.thread && (other.is_write || is_write) && !is_ordered) ++state.conflicts;
    }
    if (!is_known) state.words[word].push_back(mine);
  }
}
inline void reads(const void* at, int bytes) { record(at, bytes, false); }
inline void writes(const void* at, int bytes) { record(at, bytes, true); }

}  // namespace recorder
