// Tasks on the threads that XLA has.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

#include "xla/ffi/api/ffi.h"

namespace seemore {

// Calls body(task) for each task in 0 … count - 1. The calling thread works too and never waits for a helper that
// has not begun: it may itself be the pool's only free thread.
template <class Body>
void for_each_task(xla::ffi::ThreadPool& pool, int count, const Body& body) {
  struct Shared {
    std::atomic<int> next{0};
    int finished = 0;
    std::mutex mutex;
    std::condition_variable all_finished;
  };
  auto shared = std::make_shared<Shared>();
  const Body* work = &body;
  auto take_tasks = [shared, work, count] {
    for (int task; (task = shared->next.fetch_add(1)) < count;) {
      (*work)(task);
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (++shared->finished == count) shared->all_finished.notify_all();
    }
  };
  int helpers = std::min<int64_t>(pool.num_threads(), count) - 1;
  for (int i = 0; i < helpers; ++i) pool.Schedule(decltype(take_tasks)(take_tasks));
  take_tasks();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_finished.wait(lock, [&] { return shared->finished == count; });
}

}  // namespace seemore
