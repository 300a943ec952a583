// Runs a kernel on a CPU, one block after the other. SEEMORE_KERNEL is the name of the kernel and of its namespace.
#pragma once

#include <cstdlib>
#include <memory>

#define SEEMORE_TEXT(name) #name
#define SEEMORE_HEADER(name) SEEMORE_TEXT(name.h)
#include SEEMORE_HEADER(SEEMORE_KERNEL)

namespace seemore_gpu {

// `arrays` are the addresses of the kernel's arrays, in the order of its structure.
inline void run_on_host(void* const* arrays) {
  namespace kernel = SEEMORE_KERNEL;
  kernel::Arrays all;
  std::memcpy(&all, arrays, sizeof all);
  const std::unique_ptr<void, void (*)(void*)> shared(std::aligned_alloc(64, round_up(kernel::kSharedBytes, 64)),
                                                      std::free);
  Block block;
  for (block.z = 0; block.z < all.sizes[4]; ++block.z)
    for (block.y = 0; block.y < all.sizes[3]; ++block.y)
      for (block.x = 0; block.x < all.sizes[2]; ++block.x) {
        std::memset(shared.get(), 0xff, kernel::kSharedBytes);  // NaN, so that no block depends on the one before it
        recorder::enter_block(shared.get(), kernel::kSharedBytes);
        kernel::run(all, static_cast<Value*>(shared.get()), block);
      }
}

constexpr int kArrays = sizeof(SEEMORE_KERNEL::Arrays) / sizeof(void*);

}  // namespace seemore_gpu
