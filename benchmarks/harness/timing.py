"""Times calls in turns, one call of each in every round, so that other load on the machine slows all of them."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# A function that returns when its result is computed.
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Timings:
    """Holds the seconds of each call, by name; entry i of each list was measured in round i."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        """Returns the median seconds of a call."""
        return statistics.median(self.seconds[name])

    def fastest(self, names: Sequence[str]) -> str | None:
        """Returns the name with the lowest median among `names`, or None if there are none."""
        return min(names, key=self.median, default=None)

    def ratio(self, name: str, other: str) -> float:
        """Returns the time of one call divided by that of another, as the median of the ratios within each round."""
        return statistics.median(a / b for a, b in zip(self.seconds[name], self.seconds[other], strict=True))

    def summary(self, peers: Sequence[str]) -> dict[str, Any]:
        """Returns the figures for the JSON file: the seconds of every call, medians, and ratios to the fastest peer."""
        fastest = self.fastest(peers)
        return {
            "seconds": self.seconds,
            "median_seconds": {name: self.median(name) for name in self.seconds},
            "fastest_peer": fastest,
            "ratio_to_fastest_peer": {
                name: None if fastest is None else self.ratio(name, fastest) for name in self.seconds
            },
        }


def in_turns(calls: Mapping[str, Call], *, rounds: int, warm_up: int = 1, pause: float = 0.05) -> Timings:
    """Times each call once in every round, always in the same order.

    Args:
      calls: the calls, by name.
      rounds: how often each call is timed.
      warm_up: the number of rounds before those, which are not timed.
      pause: seconds before each call, because threads of the call before it wait actively for a while.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(-warm_up, rounds):
        for name, call in calls.items():
            time.sleep(pause)
            duration = seconds_of(call)
            if number >= 0:
                seconds[name].append(duration)
    return Timings(seconds)


def seconds_of(call: Call) -> float:
    """Returns the wall-clock seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def fastest_setting(settings: Mapping[str, Call], calls: int = 2) -> str:
    """Returns the name of the fastest of several ways to compute the same, by the lowest time of a few calls each."""
    if len(settings) == 1:
        return next(iter(settings))
    timings = in_turns(settings, rounds=calls)
    return min(settings, key=lambda name: min(timings.seconds[name]))
