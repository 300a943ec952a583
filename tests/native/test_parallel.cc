// Runs tasks on threads, under the thread sanitizer. If a test fails, a task is left out or done twice, or an exception
// ends the process, or a thread still uses memory that was freed.

#include "parallel.h"

#include <new>
#include <stdexcept>
#include <string>

#include "pool.h"
#include "testing.h"

using seemore::for_each_task;

namespace {

void test_each_task_is_done_once(int threads) {
  Pool pool(threads);
  for (int count : {0, 1, 2, 7, 100}) {
    std::vector<int> done(count);  // no atomics: each task has its own
    for_each_task(pool, count, [&](int task) { ++done[task]; });
    for (int times : done) CHECK(times == 1);
  }
}

// XLA may keep all threads of the pool busy, so that only the calling thread is free.
void test_helpers_that_never_begin_are_not_waited_for() {
  Pool pool(4, /*idle=*/true);
  std::vector<int> done(50);
  for_each_task(pool, 50, [&](int task) { ++done[task]; });
  for (int times : done) CHECK(times == 1);
}

// A helper that begins after the call has returned must not use the body, which no longer exists.
void test_helpers_that_begin_late_do_nothing() {
  auto pool = std::make_unique<Pool>(4, /*idle=*/true);
  {
    auto body = std::make_unique<std::vector<int>>(9);
    for_each_task(*pool, 9, [&](int task) { ++(*body)[task]; });
  }
  pool->begin();
  pool.reset();
}

void test_the_first_exception_is_the_callers(int threads) {
  for (int repeat = 0; repeat < 20; ++repeat)
    for (int failing : {0, 3, 29}) {
      Pool pool(threads);
      auto memory = std::make_unique<std::vector<int>>(30);
      bool caught = false;
      try {
        for_each_task(pool, 30, [&](int task) {
          (*memory)[task] = task;
          if (task == failing) throw std::runtime_error("task " + std::to_string(task));
        });
      } catch (const std::runtime_error& error) {
        caught = error.what() == "task " + std::to_string(failing);
      }
      memory.reset();  // a thread that is still at work now uses freed memory
      CHECK(caught);
    }
}

void test_all_may_fail(int threads) {
  Pool pool(threads);
  int caught = 0;
  try {
    for_each_task(pool, 30, [&](int) { throw std::bad_alloc(); });
  } catch (const std::bad_alloc&) {
    ++caught;
  }
  CHECK(caught == 1);
}

struct FullPool {
  int64_t num_threads() const { return 4; }
  void Schedule(const std::function<void()>&) { throw std::bad_alloc(); }
};

void test_the_pool_has_no_room_for_helpers() {
  FullPool pool;
  std::vector<int> done(5);
  for_each_task(pool, 5, [&](int task) { ++done[task]; });
  for (int times : done) CHECK(times == 1);
}

}  // namespace

int main() {
  for (int threads : {0, 1, 2, 4}) {
    test_each_task_is_done_once(threads);
    test_the_first_exception_is_the_callers(threads);
    test_all_may_fail(threads);
  }
  test_helpers_that_never_begin_are_not_waited_for();
  test_helpers_that_begin_late_do_nothing();
  test_the_pool_has_no_room_for_helpers();
}
