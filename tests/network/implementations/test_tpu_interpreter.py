"""If these fail, a TPU kernel has a data race, or reads memory before it is written or outside of its arrays.

Pallas's interpreter for TPUs fills the memory with NaN first and follows every access. The tests of `test_tpu.py` use
the faster one, which does neither.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental.pallas import tpu as pltpu

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.implementations import pallas_kernels, pallas_stages, tpu
from seemore_jax.network.implementations.pallas_stages import Block, BlockWeights, MapShape

interpreter = pytest.importorskip("jax._src.pallas.mosaic.interpret.interpret_pallas_call")
pytestmark = pytest.mark.thorough
BLOCKS = ("embedding", "mixing", "feed_forward", "enhancement", "reconstruction")
CONFIG = SeemoReConfig.variant("T", 2, num_layers=1, embedding_dim=12, global_kernel_size=5, recursive=1)
# Two images of an odd size, in two chunks.
SHAPE = (2, 9, 15)

Call = tuple[Any, tuple[jax.Array, ...]]


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes kernels run in the interpreter that follows every access, in chunks of 128 pixels."""
    monkeypatch.setattr(pallas_stages, "_CHUNK", 128)
    call = pallas_kernels.pl.pallas_call

    def followed(*arguments: Any, interpret: Any = False, **options: Any) -> Any:
        return call(*arguments, interpret=interpret and pltpu.InterpretParams(detect_races=True), **options)

    monkeypatch.setattr(pallas_kernels.pl, "pallas_call", followed)
    # The interpreter's effects cannot be in a branch.
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *arrays, tpu, default: default(*arrays))
    yield
    pltpu.reset_tpu_interpret_mode_state()


@functools.cache
def calls() -> dict[str, Call]:
    """The functions of each block, and the arrays on which a network with random weights calls it."""
    found: dict[str, Call] = {}

    def apply(block: Block, shape: MapShape, weights: BlockWeights, per_image: BlockWeights, maps: Any) -> Any:
        kernels = pallas_kernels._BlockKernels(block, shape, tuple(sorted(weights)), tuple(sorted(per_image)))
        arrays = (*pallas_kernels._leaves(weights), *pallas_kernels._leaves(per_image), *maps)
        found[block.name] = kernels, arrays
        return kernels.by_xla(*arrays)

    random = np.random.default_rng(0)
    graph, shapes = nnx.split(SeemoRe.abstract(CONFIG))
    parameters = jax.tree.map(lambda leaf: jnp.asarray(0.3 * random.standard_normal(leaf.shape), jnp.float32), shapes)
    image = jnp.asarray(random.random((*SHAPE, 3)), jnp.float32)
    with pytest.MonkeyPatch.context() as patch, jax.disable_jit():
        patch.setattr(tpu, "apply", apply)
        patch.setattr(jax, "checkpoint", lambda function, **_: function)
        tpu.apply_network(nnx.merge(graph, parameters), image)
    return found


def assert_close(mine: Any, expected: Any) -> None:
    np.testing.assert_allclose(mine, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.usefixtures("follow")
@pytest.mark.parametrize("name", BLOCKS)
def test_kernels_have_no_race_and_read_only_what_was_written(name: str) -> None:
    kernels, arrays = calls()[name]
    assert kernels.shape.lanes == 2 * kernels.shape.chunk
    expected, pull_back = jax.vjp(kernels.by_xla, *arrays)
    directions = tuple(jnp.cos(jnp.arange(one.size, dtype=jnp.float32)).reshape(one.shape) for one in expected)
    jax.tree.map(assert_close, kernels.forward(*arrays), expected)
    assert not interpreter.races.races_found
    jax.tree.map(assert_close, kernels.backward(arrays, directions), pull_back(directions))
    assert not interpreter.races.races_found


@pytest.mark.usefixtures("follow")
def test_a_kernel_that_reads_memory_before_it_is_written_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the test above: this kernel does not set the halos of its maps to zero."""
    monkeypatch.setattr(pallas_kernels._StageRunner, "clear_surroundings", lambda _: None)
    kernels, arrays = calls()["enhancement"]
    assert jnp.isnan(kernels.forward(*arrays)[0]).any()
