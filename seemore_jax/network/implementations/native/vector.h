// SIMD vectors of the machine's width, and the elementwise functions of the network.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

namespace seemore {

#if defined(__AVX512F__)
inline constexpr int kLanes = 16;
#elif defined(__AVX__)
inline constexpr int kLanes = 8;
#else
inline constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t)), aligned(sizeof(int32_t)), may_alias));

// `from` and `to` point to kLanes floats, in any alignment.
inline Vec load(const float* from) { return *reinterpret_cast<const Vec*>(from); }
inline void store(float* to, Vec v) { *reinterpret_cast<Vec*>(to) = v; }
inline Vec splat(float v) { return Vec{} + v; }
inline Vec clamp(Vec v, float low, float high) {
  v = v < low ? splat(low) : v;
  return v > high ? splat(high) : v;
}

inline float sum(Vec v) {
  float total = 0;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

// Computes 1 / sqrt(v), where v > 0.
inline Vec inverse_sqrt(Vec v) {
  Vec out;
  for (int i = 0; i < kLanes; ++i) out[i] = 1 / std::sqrt(v[i]);
  return out;
}

// Computes exp(v) for v <= 0, with a relative error of at most 1e-6; the result is 0 for v < -87. The method is 2^n
// times a Taylor polynomial of the remainder.
inline Vec exp_of_negative(Vec v) {
  IntVec tiny = v < -87.0f;         // exactly 0, because the result may be multiplied by a large number
  const float shift = 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer, which is in its lowest bits
  v = v < -87.0f ? splat(-87.0f) : v;
  Vec shifted = v * 1.44269504f + shift;
  Vec n = shifted - shift;
  Vec r = (v - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  IntVec power = (reinterpret_cast<IntVec>(shifted) << 23) + 0x3f800000;
  return tiny ? Vec{} : p * reinterpret_cast<Vec>(power);
}

// Computes the normal distribution function, (1 + erf(x / sqrt 2)) / 2, for finite x, with an error of at most 3e-7.
// erf is a rational function that was fitted for this file by iteratively reweighted least squares on [0, 3.9];
// beyond 3.9, erf is 1 in float32.
inline Vec normal_cdf(Vec x) {
  Vec z = clamp(x * 0.70710678f, -3.9f, 3.9f);
  Vec t = z * z;
  Vec p = splat(2.0503853193076793e-06f);
  p = p * t + 0.00028745774761773646f;
  p = p * t + 0.0038368941750377417f;
  p = p * t + 0.052966974675655365f;
  p = p * t + 0.19194141030311584f;
  p = p * t + 1.128378987312317f;
  Vec q = splat(3.823074803221971e-05f);
  q = q * t + 0.0011817390331998467f;
  q = q * t + 0.01510924007743597f;
  q = q * t + 0.11475837230682373f;
  q = q * t + 0.5034354329109192f;
  q = q * t + 1.0f;
  Vec cdf = 0.5f + 0.5f * z * p / q;
  // Exactly 0 and 1 in the tails, because GELU multiplies the result by x.
  cdf = z <= -3.9f ? splat(0) : cdf;
  return z >= 3.9f ? splat(1) : cdf;
}

// Computes x * normal_cdf(x), for finite x.
inline Vec gelu(Vec x) { return x * normal_cdf(x); }

// Computes the derivative of `gelu`, for finite x.
inline Vec gelu_grad(Vec x) { return normal_cdf(x) + x * 0.39894228f * exp_of_negative(-0.5f * x * x); }

}  // namespace seemore
