"""If these fail, the FLOPs of a program are not those of its matrix products and convolutions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl

from seemore_jax.ahead_of_time.matrix_flops import equations, matrix_flops
from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.system.devices import compiling_for


def test_products_count_with_their_batch_and_contraction() -> None:
    jaxpr = jax.make_jaxpr(lambda x, y: jnp.einsum("bij,bjk->bik", x, y))(jnp.zeros((5, 2, 3)), jnp.zeros((5, 3, 4)))
    assert matrix_flops(jaxpr.jaxpr) == 2 * 5 * 2 * 3 * 4


def test_convolutions_count_their_taps_dense_and_depthwise() -> None:
    x = jnp.zeros((2, 8, 8, 6))

    def convolution(filters: jax.Array, groups: int) -> int:
        def apply(x: jax.Array) -> jax.Array:
            numbers = ("NHWC", "HWIO", "NHWC")
            return lax.conv_general_dilated(
                x, filters, (1, 1), "SAME", dimension_numbers=numbers, feature_group_count=groups
            )

        return matrix_flops(jax.make_jaxpr(apply)(x).jaxpr)

    assert convolution(jnp.zeros((3, 3, 6, 4)), 1) == 2 * (2 * 8 * 8 * 4) * 9 * 6
    assert convolution(jnp.zeros((3, 3, 1, 6)), 6) == 2 * (2 * 8 * 8 * 6) * 9


def test_loops_and_grids_count_as_often_as_they_run_and_of_branches_the_largest() -> None:
    x = jnp.zeros((8, 8))
    product = 2 * 8**3

    def looped(x: jax.Array) -> jax.Array:
        return lax.scan(lambda y, _: (jnp.tanh(y @ y), None), x, length=7)[0]

    def kernel(x_ref: jax.Array, y_ref: jax.Array) -> None:
        y_ref[...] = x_ref[...] @ x_ref[...]

    def gridded(x: jax.Array) -> jax.Array:
        return pl.pallas_call(kernel, grid=(3,), out_shape=x, interpret=True)(x)

    def branched(x: jax.Array) -> jax.Array:
        return lax.cond(x[0, 0] > 0, lambda: x @ x @ x, lambda: x)

    for function, count in ((looped, 7), (gridded, 3), (branched, 2), (jax.jit(lambda x: x @ x), 1)):
        assert matrix_flops(jax.make_jaxpr(function)(x).jaxpr) == count * product


def test_kernels_in_fused_operations_are_found() -> None:
    """Otherwise their cycles and products would be missing in the cost of a step on a TPU."""
    config = SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1, implementation="tpu")
    graph, parameters = nnx.split(SeemoRe.abstract(config))

    def loss(parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return jnp.sum(nnx.merge(graph, parameters)(lr))

    with compiling_for("tpu"):
        lr = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
        step = jax.make_jaxpr(jax.grad(loss))(parameters, lr).jaxpr
    kernels = {equation.params["name"] for equation in equations(step, "pallas_call")}
    blocks = ("embedding", "mixing", "feed_forward", "enhancement", "reconstruction")
    assert kernels == {f"{block}_{direction}" for block in blocks for direction in ("forward", "backward")}
    assert matrix_flops(step) > 3 * 16 * 16 * 9 * 8 * 8
