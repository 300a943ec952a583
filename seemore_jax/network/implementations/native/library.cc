// What native/__init__.py asks a library about itself.

#define SEEMORE_EXPORT extern "C" __attribute__((visibility("default")))

// Returns the name of the fastest level that this CPU can run, as CMakeLists.txt calls the levels; an empty string if
// it can run none. Only the library of the first level is asked.
SEEMORE_EXPORT const char* seemore_level() {
#if defined(__x86_64__)
  __builtin_cpu_init();
#define SEEMORE_HAS(feature) __builtin_cpu_supports(feature)
  if (!SEEMORE_HAS("sse4.2") || !SEEMORE_HAS("popcnt")) return "";
  if (!SEEMORE_HAS("avx2") || !SEEMORE_HAS("fma") || !SEEMORE_HAS("bmi") || !SEEMORE_HAS("bmi2")) return "x86-64-v2";
  if (!SEEMORE_HAS("avx512f") || !SEEMORE_HAS("avx512bw") || !SEEMORE_HAS("avx512cd") || !SEEMORE_HAS("avx512dq") ||
      !SEEMORE_HAS("avx512vl"))
    return "x86-64-v3";
  return "x86-64-v4";
#elif defined(__aarch64__)
  return "armv8-a";
#else
  return "native";
#endif
}

// Returns the digest of the sources from which the library was compiled.
SEEMORE_EXPORT const char* seemore_sources() { return SEEMORE_SOURCES; }
