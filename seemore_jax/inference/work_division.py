"""Divides the upscaling of files over the processes of a run and over the devices of each process.

Process 0 assigns batches of files to processes. Within a process, each device takes the next batch that is left. The
outcomes go to process 0 through the key-value store that it runs for JAX.
"""

import dataclasses
import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax

from seemore_jax.inference.jobs import Job
from seemore_jax.inference.outcomes import Outcome
from seemore_jax.system.processes import barrier, coordination_client

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_POLL_SECONDS = 0.2
_GATHERINGS = itertools.count()


def share_out(costs: Sequence[float], shares: int) -> list[list[int]]:
    """Divides items so that the shares have about the same cost: the dearest item first, to the smallest share.

    Args:
      costs: cost of each item.
      shares: number of shares.

    Returns:
      The indices of the items of each share, in ascending order.
    """
    indices: list[list[int]] = [[] for _ in range(shares)]
    totals = [0.0] * shares
    for item in sorted(range(len(costs)), key=lambda item: -costs[item]):
        smallest = totals.index(min(totals))
        indices[smallest].append(item)
        totals[smallest] += costs[item]
    return [sorted(share) for share in indices]


def on_local_devices(work: Callable[[Iterator[_Item]], Iterator[_Result]], items: Sequence[_Item]) -> Iterator[_Result]:
    """Runs the same work on all devices of this process. Each item goes to one of them.

    A single item has all devices for itself: the work is then called without a default device.

    Args:
      work: function that takes items, one after the other, and yields results. It is called once for each device, in a
        thread whose default device that is.
      items: the items.

    Yields:
      The results, in the order in which they are made.

    Raises:
      Exception: whatever `work` raises. The devices then finish the items that they have begun.
    """
    devices = jax.local_devices()
    if min(len(items), len(devices)) <= 1:
        yield from work(iter(items))
        return
    left = _Shared(items)
    messages: queue.SimpleQueue[tuple[_Result | None, BaseException | None]] = queue.SimpleQueue()

    def run(device: jax.Device) -> None:
        error = None
        try:
            with jax.default_device(device):
                for result in work(left):
                    messages.put((result, None))
        except BaseException as raised:
            error = raised
        messages.put((None, error or _Finished()))

    threads = [threading.Thread(target=run, args=(device,), daemon=True) for device in devices]
    for thread in threads:
        thread.start()
    running = len(threads)
    try:
        while running:
            result, error = messages.get()
            if isinstance(error, _Finished):
                running -= 1
            elif error is not None:
                raise error
            elif result is not None:
                yield result
    finally:
        left.stop()
    for thread in threads:
        thread.join()


class _Finished(BaseException):
    """Is the last message of a thread, in the place of an error."""


class _Shared(Iterator[_Item]):
    """Iterator that several threads share. After `stop`, it ends."""

    def __init__(self, items: Sequence[_Item]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> _Item:
        with self._lock:
            return next(self._items)

    def stop(self) -> None:
        """Ends the iterator for all threads."""
        with self._lock:
            self._items = iter(())


def gathered(outcomes: Iterator[Outcome], jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Sends the outcomes of all processes to process 0. All processes call this function together.

    Args:
      outcomes: outcomes of this process.
      jobs: jobs of all processes, the same list on each of them.

    Yields:
      On process 0, the outcomes of all processes, those of the others without routing; elsewhere those of this process.
    """
    client = coordination_client()
    if client is None:
        yield from outcomes
        return
    folder = f"seemore/outcomes/{next(_GATHERINGS)}"
    if jax.process_index() == 0:
        yield from _received(client, folder, outcomes, jobs)
    else:
        yield from _sent(client, f"{folder}/{jax.process_index()}", outcomes, jobs)
    barrier("upscaled")  # the store ends with process 0


def _sent(client: Any, folder: str, outcomes: Iterator[Outcome], jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Yields outcomes, and stores each for process 0. The last entry is their number."""
    places = {job: place for place, job in enumerate(jobs)}
    count = 0
    for outcome in outcomes:
        fields = {field.name: getattr(outcome, field.name) for field in dataclasses.fields(outcome)}
        text = json.dumps(fields | {"job": places[outcome.job], "routing": None})
        client.key_value_set(f"{folder}/{count}", text)
        count += 1
        yield outcome
    client.key_value_set(f"{folder}/count", str(count))


def _received(client: Any, folder: str, outcomes: Iterator[Outcome], jobs: Sequence[Job]) -> Iterator[Outcome]:
    """Yields the outcomes of this process and those that the others have stored."""
    expected: dict[str, int] = {}
    received = 0
    for outcome in outcomes:
        yield outcome
        found = _taken(client, folder, expected, jobs)
        received += len(found)
        yield from found
    while len(expected) < jax.process_count() - 1 or received < sum(expected.values()):
        time.sleep(_POLL_SECONDS)
        found = _taken(client, folder, expected, jobs)
        received += len(found)
        yield from found


def _taken(client: Any, folder: str, expected: dict[str, int], jobs: Sequence[Job]) -> list[Outcome]:
    """Takes the outcomes that are in the store now, and notes the numbers of outcomes of processes that are done."""
    found = []
    for key, text in client.key_value_dir_get(folder):
        _, process, entry = key.rsplit("/", 2)
        if entry == "count":
            expected[process] = int(text)
            continue
        client.key_value_delete(key)
        fields: dict[str, Any] = json.loads(text)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
        }
        found.append(Outcome(**values | {"job": jobs[fields["job"]]}))
    return found
