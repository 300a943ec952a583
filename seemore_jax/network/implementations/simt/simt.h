// One source for two compilers. Under NVRTC, the code below is executed by each thread of a CUDA block. Under a C++
// compiler for CPUs, a block is a loop over its warps, and a warp is a loop over its 32 lanes, between two barriers.
//
// A variable that each lane has for itself is an array [kLanes], with one element under NVRTC. Shared memory is read
// and written only by the functions of memory.h, so that a test can record who reads and writes what.
#pragma once

constexpr int kThreads = 256;  // of a block
constexpr int kWarps = kThreads / 32;

#ifdef __CUDACC__

#define DEVICE __device__ __forceinline__
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define FOR_WARPS(warp) for (int warp = threadIdx.x / 32, once_ = 1; once_; once_ = 0)
#define FOR_LANES(l, lane) for (int l = 0, lane = threadIdx.x % 32; l < 1; ++l)
#define FOR_THREADS(thread) for (int thread = threadIdx.x, once_ = 1; once_; once_ = 0)
#define BARRIER() __syncthreads()
#define WARP_BARRIER() __syncwarp()

namespace seemore_gpu {

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;
constexpr int kLanes = 1;

DEVICE u32 pack(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}
DEVICE float as_float(u32 bits) { return __uint_as_float(bits); }
DEVICE float reciprocal(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
DEVICE float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
DEVICE float inverse_root(float x) { return rsqrtf(x); }
DEVICE float absolute(float x) { return fabsf(x); }

// Replaces the value of each lane by the sum over its quad: the four lanes that differ in the last two bits.
DEVICE void quad_sum(float (&value)[kLanes]) {
  value[0] += __shfl_xor_sync(0xffffffffu, value[0], 1);
  value[0] += __shfl_xor_sync(0xffffffffu, value[0], 2);
}

}  // namespace seemore_gpu

#else

#include <cmath>
#include <cstdint>
#include <cstring>

#define DEVICE inline
#define UNROLL
#define NO_UNROLL
#define FOR_WARPS(warp) for (int warp = 0; warp < kWarps && recorder::enter_warp(warp); ++warp)
#define FOR_LANES(l, lane) for (int l = 0, lane = 0; l < 32 && recorder::enter_lane(l); ++l, ++lane)
#define FOR_THREADS(thread) for (int thread = 0; thread < kThreads && recorder::enter_thread(thread); ++thread)
#define BARRIER() recorder::barrier()
#define WARP_BARRIER() recorder::warp_barrier()

// A test defines SEEMORE_RECORDER, the name of a header with these functions, to record the accesses to shared memory.
#ifdef SEEMORE_RECORDER
#include SEEMORE_RECORDER
#else
namespace recorder {
inline void enter_block(const void*, int) {}
inline bool enter_warp(int) { return true; }
inline bool enter_lane(int) { return true; }
inline bool enter_thread(int) { return true; }
inline void barrier() {}
inline void warp_barrier() {}
inline void reads(const void*, int) {}
inline void writes(const void*, int) {}
}  // namespace recorder
#endif

namespace seemore_gpu {

typedef uint32_t u32;
typedef uint16_t u16;
typedef int64_t i64;
constexpr int kLanes = 32;

struct alignas(8) uint2 {
  u32 x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline float as_float(u32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
// Rounds to the nearest bfloat16, ties to even.
inline u32 rounded(float value) {
  u32 bits;
  std::memcpy(&bits, &value, 4);
  return (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
}
inline u32 pack(float low, float high) { return rounded(low) | rounded(high) << 16; }
inline float reciprocal(float x) { return 1.0f / x; }
inline float power_of_two(float x) { return std::exp2(x); }
inline float inverse_root(float x) { return 1.0f / std::sqrt(x); }
inline float absolute(float x) { return std::fabs(x); }

inline void quad_sum(float (&value)[kLanes]) {
  for (int first = 0; first < 32; first += 4) {
    float sum = (value[first] + value[first + 1]) + (value[first + 2] + value[first + 3]);
    for (int l = first; l < first + 4; ++l) value[l] = sum;
  }
}

}  // namespace seemore_gpu

#endif

#if defined(__CUDACC__)
namespace recorder {
DEVICE void reads(const void*, int) {}
DEVICE void writes(const void*, int) {}
}  // namespace recorder
#endif
