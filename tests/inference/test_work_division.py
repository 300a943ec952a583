"""Tests of the division of work. If it is wrong, devices idle, files are made twice, or not at all."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from seemore_jax.inference import work_division
from seemore_jax.inference.jobs import Job
from seemore_jax.inference.outcomes import Outcome
from seemore_jax.inference.work_division import on_local_devices, share_out


def test_shares_have_about_the_same_cost_and_each_item_once() -> None:
    costs = [5.0, 1.0, 1.0, 1.0, 1.0, 1.0, 8.0, 2.0]
    shares = share_out(costs, 2)
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [sum(costs[item] for item in share) for share in shares] == [10.0, 10.0]


def test_there_may_be_fewer_items_than_shares() -> None:
    assert share_out([3.0], 3) == [[0], [], []]


@pytest.fixture
def four_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lends the one CPU device of the tests out as four."""
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices("cpu")[:1] * 4)


def test_each_item_goes_to_one_device_and_all_devices_work_at_once(four_devices: None) -> None:
    together = threading.Barrier(4, timeout=20)

    def work(items: Iterator[int]) -> Iterator[tuple[int, int]]:
        for count, item in enumerate(items):
            if count == 0:
                together.wait()  # a device that got no item would break the barrier
            yield item, threading.get_ident()

    found = list(on_local_devices(work, range(40)))
    assert sorted(item for item, _ in found) == list(range(40))
    assert len({thread for _, thread in found}) == 4


def test_a_single_item_has_all_devices_for_itself(four_devices: None) -> None:
    def work(items: Iterator[int]) -> Iterator[tuple[int, object, bool]]:
        for item in items:
            yield item, jax.config.values["jax_default_device"], threading.current_thread() is threading.main_thread()

    assert list(on_local_devices(work, [7])) == [(7, None, True)]


def test_an_error_of_one_device_is_raised_and_stops_the_others(four_devices: None) -> None:
    begun = []

    def work(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            begun.append(item)
            if item == 2:
                raise ValueError("item 2")
            time.sleep(0.02)
            yield item

    with pytest.raises(ValueError, match="item 2"):
        list(on_local_devices(work, range(1000)))
    assert len(begun) < 1000


class _Store:
    """Key-value store with the functions of JAX's coordination service that are used here."""

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.lock = threading.Lock()

    def key_value_set(self, key: str, value: str) -> None:
        with self.lock:
            self.entries[key] = value

    def key_value_delete(self, key: str) -> None:
        with self.lock:
            del self.entries[key]

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self.lock:
            return [entry for entry in self.entries.items() if entry[0].startswith(folder)]


def test_process_0_gets_the_outcomes_of_all_and_leaves_none_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    store, process = _Store(), threading.local()
    monkeypatch.setattr(work_division, "coordination_client", lambda: store)
    monkeypatch.setattr(work_division, "_GATHERINGS", iter([0, 0, 0]))
    monkeypatch.setattr(work_division, "barrier", lambda reason: None)
    monkeypatch.setattr(jax, "process_index", lambda: process.index)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    jobs = [Job(Path(f"{i}.png"), Path(f"{i}_x2.png")) for i in range(7)]
    outcomes = [
        Outcome(job, "made", (1, 2), (2, 4), notes=("near",)) if i % 2 else Outcome(job, "failed", error="damaged")
        for i, job in enumerate(jobs)
    ]

    def gather(index: int) -> list[Outcome]:
        process.index = index
        return list(work_division.gathered(iter(outcomes[index::3]), jobs))

    with ThreadPoolExecutor(3) as threads:
        first, second, third = threads.map(gather, range(3))
    assert sorted(first, key=lambda outcome: str(outcome.job.source)) == outcomes
    assert (second, third) == (outcomes[1::3], outcomes[2::3])
    assert all(key.endswith("/count") for key in store.entries)
