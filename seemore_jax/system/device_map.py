"""One function of many items, computed on all devices of all processes."""

import concurrent.futures
import itertools
import json
import queue
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from seemore_jax.system.processes import barrier, coordination_client

_POLL_SECONDS = 0.2
_CALLS = itertools.count()

# Computes the figures of an item.
Measure = Callable[[int], Sequence[float]]


def map_over_devices(measure: Measure, count: int) -> Iterator[tuple[int, Sequence[float]]]:
    """Calls `measure` for the items 0 to `count` − 1, each on one device, and yields items with their figures.

    Item i is computed by process i modulo the number of processes. Within a process, each device takes the next item
    that is left, so the items may differ in how long they take. All processes call this function together. All of them
    get all figures, exactly, through the key-value store that process 0 runs for JAX.

    Args:
      measure: computes the figures of an item; called in a thread whose default device is the item's.
      count: number of items.

    Yields:
      Items with their figures, in the order in which they are finished.

    Raises:
      Exception: whatever `measure` raises, on the process where it does.
    """
    client, folder = coordination_client(), f"seemore/spread/{next(_CALLS)}"
    devices: queue.SimpleQueue[jax.Device] = queue.SimpleQueue()
    for device in jax.local_devices():
        devices.put(device)

    def on_a_device(item: int) -> tuple[int, Sequence[float]]:
        device = devices.get()
        try:
            with jax.default_device(device):
                figures = measure(item)
        finally:
            devices.put(device)
        if client is not None:
            client.key_value_set(f"{folder}/{item}", json.dumps(figures))
        return item, figures

    workers = concurrent.futures.ThreadPoolExecutor(jax.local_device_count())
    try:
        mine = range(jax.process_index(), count, jax.process_count())
        running = {workers.submit(on_a_device, item) for item in mine}
        missing = set(range(count))
        while missing:
            done, running = concurrent.futures.wait(running, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            found = dict(future.result() for future in done)
            if client is not None:
                time.sleep(_POLL_SECONDS)
                stored = {int(key.rsplit("/", 1)[1]): text for key, text in client.key_value_dir_get(folder)}
                found |= {item: json.loads(stored[item]) for item in missing & stored.keys()}
            yield from ((item, found[item]) for item in sorted(missing & found.keys()))
            missing -= found.keys()
    finally:
        workers.shutdown(wait=False, cancel_futures=True)
    barrier("measured")  # the store ends with process 0, so all processes must have read it first
