"""If these fail, a bar stands still while an image is computed, runs backwards, or is full before the end."""

import threading
import time

import pytest

import seemore_jax as sj
from seemore_jax.inference.large_results import LARGE_RESULT, announcement
from seemore_jax.inference.ticking import Speed, share_at, ticking, work_of

CONFIG = sj.SeemoReConfig.variant("T", 4)


def test_progress_goes_on_by_time_and_never_reaches_the_end() -> None:
    shares = [share_at(time / 10) for time in range(1000)]
    assert shares == sorted(shares)
    assert shares[0] == 0
    assert abs(share_at(0.5) - 0.45) < 1e-9
    assert 0.9 < share_at(1.5) < share_at(1e6) < 1


def test_time_counts_until_the_work_reports_its_own_progress() -> None:
    shares: list[float] = []
    came = threading.Event()

    def note(share: float) -> None:
        shares.append(share)
        came.set()

    with ticking(note, 10.0) as progress:
        assert came.wait(5)
        assert 0 < shares[0] < 0.5
        progress(0.75)
        before = len(shares)
        time.sleep(0.5)
        assert shares[before - 1 :] == [0.75]
    assert not any(thread.name == "progress" for thread in threading.enumerate())


def test_an_error_of_the_progress_function_stops_the_work_and_not_only_the_thread() -> None:
    stopped = threading.Event()

    def stop(share: float) -> None:
        stopped.set()
        raise KeyboardInterrupt

    def work() -> None:
        with ticking(stop, 10.0) as progress:
            assert stopped.wait(5)
            time.sleep(0.1)
            progress(0.5)
            pytest.fail("the work goes on")

    with pytest.raises(KeyboardInterrupt):
        work()


def test_progress_does_not_go_back_where_the_estimate_was_too_fast() -> None:
    shares: list[float] = []
    with ticking(shares.append, 2.0) as progress:
        while not shares:
            time.sleep(0.01)
        progress(0.001)
        progress(0.5)
    assert shares == sorted(shares)
    assert shares[-1] == 0.5


def test_speed_is_what_was_measured_last() -> None:
    speed = Speed()
    assert speed.seconds(1e9) > 0  # a guess
    with speed.measured(1e9):
        time.sleep(0.1)
    assert 0.1 <= speed.seconds(1e9) < 5
    assert speed.seconds(2e9) == 2 * speed.seconds(1e9)


def test_a_large_result_is_announced_with_size_memory_and_time() -> None:
    speed = Speed()
    side = int((LARGE_RESULT / 16) ** 0.5)
    assert announcement(CONFIG, (side, side), 4, 1, speed) is None
    line = announcement(CONFIG, (2250, 4000), 4, 1, speed)
    assert line is not None
    assert line.startswith("the result has 144 megapixels (16000×9000); making it takes about ")
    assert 3 < float(line.split()[-4]) < 5  # GB
    assert "second" not in line
    work = work_of(CONFIG, 2250, 4000)
    speed._rate = work / 30
    assert "about 30 seconds and " in str(announcement(CONFIG, (2250, 4000), 4, 1, speed))
    speed._rate = work / 600
    assert "about 10 minutes and " in str(announcement(CONFIG, (2250, 4000), 4, 1, speed))
    assert "(200 images of 1600×1200)" in str(announcement(CONFIG, (300, 400), 4, 200, speed))
    assert announcement(CONFIG, (300, 400), 4, 5, speed) is None
