// Parallel tasks on XLA's thread pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>

namespace seemore {

// Calls body(task) for task = 0, ..., count - 1, on the calling thread and on threads of the pool, the helpers. The
// calling thread never waits for a helper that has not begun, because it may be the only free thread of the pool. If a
// task throws, no further task begins. The first exception is thrown again after all tasks that have begun are
// finished, because they still use `body`.
template <class Pool, class Body>
void for_each_task(Pool& pool, int count, const Body& body) {
  struct Shared {
    explicit Shared(int count) : begun(count) {}
    std::atomic<int> next{0};
    int begun, finished = 0;  // numbers of tasks; `begun` is the number of all tasks unless one fails
    std::exception_ptr error;
    std::mutex mutex;
    std::condition_variable all_finished;
  };
  auto shared = std::make_shared<Shared>(count);
  const Body* work = &body;
  auto take_tasks = [shared, work, count] {
    for (int task; (task = shared->next.fetch_add(1)) < count;) {
      std::exception_ptr error;
      try {
        (*work)(task);
      } catch (...) {
        error = std::current_exception();
      }
      std::lock_guard<std::mutex> lock(shared->mutex);
      if (error) {
        shared->begun = std::min(shared->begun, shared->next.exchange(count));
        if (!shared->error) shared->error = std::move(error);
      }
      if (++shared->finished == shared->begun) shared->all_finished.notify_all();
    }
  };
  int helpers = static_cast<int>(std::min<int64_t>(pool.num_threads(), count)) - 1;
  try {
    for (int i = 0; i < helpers; ++i) pool.Schedule(decltype(take_tasks)(take_tasks));
  } catch (...) {  // no memory for another helper: the other threads do its tasks
  }
  take_tasks();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_finished.wait(lock, [&] { return shared->finished == shared->begun; });
  if (shared->error) std::rethrow_exception(std::move(shared->error));
}

}  // namespace seemore
