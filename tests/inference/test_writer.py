"""If these fail, outputs are lost or reported for the wrong file, or memory fills with results."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seemore_jax.inference import writer as writer_module
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.outcomes import Outcome
from seemore_jax.inference.writer import Writer

WAIT = 10  # seconds, after which a test fails instead of hanging


def outcome(number: int) -> Outcome:
    return Outcome(Job(Path(f"{number}.png"), Path(f"{number}_x2.png")), "made")


def test_outputs_are_written_in_order_while_the_caller_goes_on() -> None:
    release, thread = threading.Event(), list[str]()

    def task(number: int) -> Callable[[], Outcome]:
        def write() -> Outcome:
            assert release.wait(WAIT)
            thread.append(threading.current_thread().name)
            return outcome(number)

        return write

    with Writer() as writer:
        early = [result for number in range(3) for result in writer.write(task(number), 1)]
        assert early == []  # the caller did not wait
        release.set()
        assert list(writer.rest()) == [outcome(0), outcome(1), outcome(2)]
    assert all(name.startswith("writer") for name in thread)


def test_the_caller_waits_if_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_WAITING_BYTES", 100)
    release, running = threading.Event(), threading.Event()

    def slow() -> Outcome:
        running.set()
        assert release.wait(WAIT)
        return outcome(0)

    with Writer() as writer:
        assert list(writer.write(slow, 1000)) == []  # alone, a large one may wait
        assert running.wait(WAIT)
        threading.Timer(0.2, release.set).start()
        begin = time.perf_counter()
        assert outcome(0) in list(writer.write(lambda: outcome(1), 1000))
        assert time.perf_counter() - begin > 0.1
        list(writer.rest())


def test_an_error_of_the_program_reaches_the_caller() -> None:
    def broken() -> Outcome:
        raise ZeroDivisionError

    def use() -> None:
        with Writer() as writer:
            list(writer.write(broken, 1))
            list(writer.rest())

    with pytest.raises(ZeroDivisionError):
        use()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_after_an_error_what_waits_is_not_written(error: type[BaseException]) -> None:
    """After Ctrl-C, the block does not wait for the output that is being written either."""
    release, running, written = threading.Event(), threading.Event(), list[int]()

    def slow() -> Outcome:
        running.set()
        assert release.wait(WAIT)
        written.append(0)
        return outcome(0)

    def second() -> Outcome:
        written.append(1)
        return outcome(1)

    if error is RuntimeError:
        threading.Timer(0.2, release.set).start()

    def use() -> None:
        with Writer() as writer:
            list(writer.write(slow, 1))
            list(writer.write(second, 1))
            assert running.wait(WAIT)
            raise error

    with pytest.raises(error):
        use()
    assert written == ([] if error is KeyboardInterrupt else [0])
    release.set()
