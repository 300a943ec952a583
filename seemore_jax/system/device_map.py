"""The same function of many items, on all devices of all processes."""

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

# Item to figures.
Measure = Callable[[int], Sequence[float]]


def map_over_devices(measure: Measure, count: int) -> Iterator[tuple[int, Sequence[float]]]:
    """Calls `measure` with 0 … `count` − 1, each on one device; yields items with their figures as they come.

    Item i belongs to process i modulo their number, within which each device takes the next one that is left: items
    need not take equally long, as they have to where devices compute together. All processes call it together, and all
    get all figures, every bit of them, through the store that process 0 runs for JAX.

    Raises:
      Exception: what `measure` raises, on the process where it does.
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
    barrier("measured")  # process 0 must not end, and its store with it, before all have read it
