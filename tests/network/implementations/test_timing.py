"""If this test fails, "auto" takes kernels that are slower than the plain network, or not those that are faster."""

import time
from typing import Any

import jax

from seemore_jax.network import SeemoReConfig
from seemore_jax.network.implementations import plain
from seemore_jax.network.implementations.timing import median_times

_TINY = SeemoReConfig(
    scale=2, num_layers=1, embedding_dim=4, num_experts=1, recursive=0, global_kernel_size=3, implementation="plain"
)


def test_the_slower_implementation_takes_longer() -> None:
    def waiting(x: Any) -> Any:
        time.sleep(0.02)
        return x

    def slow(*arguments: Any) -> Any:
        sr, routing = plain.apply_network(*arguments)
        wait = jax.pure_callback(waiting, sr, sr)
        return wait, routing

    times = median_times("slow", slow, _TINY, jax.devices()[0], size=(8, 8))
    assert times.keys() == {"slow", "plain"}
    assert times["slow"] > times["plain"] + 15
