"""If these fail, one visitor computes before another who came first, or keeps all others waiting."""

import threading
from collections.abc import Callable

import pytest

from seemore_jax.web.turns import Turns


def started(*targets: Callable[[], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def until_waiting(turns: Turns, number: int) -> None:
    """Waits until a number of threads hold the lock or wait for it."""
    pause = threading.Event()
    while len(turns._queue) < number:
        pause.wait(0.01)


def test_who_comes_first_goes_first() -> None:
    turns, order = Turns(), []
    with turns.take():
        threads = []
        for name in "abc":

            def run(name: str = name) -> None:
                with turns.take():
                    order.append(name)

            threads += started(run)
            until_waiting(turns, 1 + len(threads))
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c"]


def test_a_turn_that_is_passed_on_goes_behind_all_who_wait() -> None:
    turns, order = Turns(), []

    def run(name: str) -> None:
        with turns.take() as turn:
            order.append(f"{name} begins")
            turn.pass_on()
            order.append(f"{name} ends")

    with turns.take() as turn:
        threads = started(lambda: run("a"))
        until_waiting(turns, 2)
        threads += started(lambda: run("b"))
        until_waiting(turns, 3)
        turn.pass_on()
        order.append("first ends")
        assert turn.waited > 0
    for thread in threads:
        thread.join()
    assert order == ["a begins", "b begins", "first ends", "a ends", "b ends"]


def test_a_turn_stays_if_nobody_waits() -> None:
    with Turns().take() as turn:
        turn.pass_on()
        assert turn.waited == 0


def test_who_waits_is_told_how_many_are_ahead_and_may_give_up() -> None:
    turns, told = Turns(), []

    def give_up(ahead: int) -> None:
        told.append(ahead)
        raise InterruptedError

    with turns.take():
        with pytest.raises(InterruptedError), turns.take(give_up):
            pass
        assert len(turns._queue) == 1
    assert told == [1]
    assert turns._queue == []
