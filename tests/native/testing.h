// Checks, random values and arrays for the tests of the kernels.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                 \
    }                                                                               \
  } while (false)

#define CHECK_NEAR(found, expected, tolerance)                                                          \
  do {                                                                                                  \
    double found_ = (found), expected_ = (expected), tolerance_ = (tolerance);                          \
    if (!(std::fabs(found_ - expected_) <= tolerance_)) {                                               \
      std::fprintf(stderr, "%s:%d: %s is %g, not %g\n", __FILE__, __LINE__, #found, found_, expected_); \
      std::exit(1);                                                                                     \
    }                                                                                                   \
  } while (false)

inline std::mt19937& generator() {
  static std::mt19937 generator(7);
  return generator;
}

inline float random_value(float scale = 1) { return std::normal_distribution<float>(0, scale)(generator()); }

// Array of `count` random floats in its own memory, so that the address sanitizer detects every access beyond it. The
// first float is `misaligned` floats after an address that the allocator returned.
class Floats {
 public:
  explicit Floats(size_t count, int misaligned = 0) : memory_(count + misaligned), begin_(memory_.data() + misaligned) {
    for (float& value : memory_) value = random_value();
  }
  operator float*() { return begin_; }
  float& operator[](size_t i) { return begin_[i]; }

 private:
  std::vector<float> memory_;
  float* begin_;
};
