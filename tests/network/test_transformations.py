"""If these tests fail, the network cannot be used inside a transformation of JAX or Flax, or is wrong there.

Each case is computed by each implementation and compared with the plain one.
"""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.extend
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from seemore_jax.network import SeemoRe, SeemoReConfig

CONFIG = SeemoReConfig(
    scale=2, num_layers=1, embedding_dim=6, num_experts=2, recursive=1, global_kernel_size=3, implementation="plain"
)
IMPLEMENTATIONS = ("cpu", "tpu", "gpu")
_SLOW_EVERYWHERE = ("hessian", "grad_of_grad", "hessian_vector_product", "scan")
_QUICK_ON_TPU = ("jit", "grad", "vmap_over_both", "jvp")
# Where a derivative is taken, the GPU's operations are their functions in JAX; so there is little else to compare.
_ON_GPU = ("grad_with_a_size", "vmap_over_both", "vmap_over_images")
LR = jax.random.uniform(jax.random.key(1), (2, 5, 6, 3))  # an odd size
DIRECTION = jax.random.normal(jax.random.key(2), LR.shape)
SHIFT = jnp.asarray([0.1, -0.2])

Case = Callable[["Network"], Any]
CASES: dict[str, Case] = {}
EAGER: set[str] = set()
# Machine code without optimization compiles in half the time; a small network spends most of its time on compilation.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


@dataclasses.dataclass(frozen=True)
class Network:
    """Network with one implementation, as functions of its parameters and of images."""

    graph: nnx.GraphDef[SeemoRe]
    parameters: nnx.State
    lr: jax.Array

    @classmethod
    def of(cls, implementation: str) -> "Network":
        model = SeemoRe(dataclasses.replace(CONFIG, implementation=implementation), rngs=nnx.Rngs(3))
        return cls(*nnx.split(model), LR)

    @property
    def model(self) -> SeemoRe:
        return nnx.merge(self.graph, self.parameters)

    @property
    def ensemble(self) -> nnx.State:
        """Returns the stacked parameters of two networks."""
        return jax.tree.map(lambda leaf: jnp.stack([leaf, 0.9 * leaf]), self.parameters)

    def upscale(self, parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return nnx.merge(self.graph, parameters)(lr)

    def upscale_one(self, parameters: nnx.State, image: jax.Array) -> jax.Array:
        return self.upscale(parameters, image[None])[0]

    def loss(self, parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(3 * self.upscale(parameters, lr)))

    def loss_of_one(self, parameters: nnx.State, image: jax.Array) -> jax.Array:
        return self.loss(parameters, image[None])

    def loss_of_shift(self, shift: jax.Array) -> jax.Array:
        """Returns a function of two numbers: one scales all parameters, one shifts the image."""
        return self.loss(jax.tree.map(lambda leaf: leaf * (1 + shift[0]), self.parameters), self.lr + shift[1])


def case(function: Case) -> Case:
    """Registers a case that is computed inside one `jax.jit`, which is much faster."""
    CASES[function.__name__] = function
    return function


def eager_case(function: Case) -> Case:
    """Registers a case that is computed without an outer `jax.jit`."""
    EAGER.add(function.__name__)
    return case(function)


def computed(name: str, implementation: str) -> Any:
    """Returns the results of a case."""
    network = Network.of(implementation)
    if name in EAGER:
        return CASES[name](network)

    def under_jit(parameters: nnx.State, lr: jax.Array) -> Any:
        return CASES[name](Network(network.graph, parameters, lr))

    return jax.jit(under_jit, compiler_options=_COMPILER_OPTIONS)(network.parameters, network.lr)


@case
def jit(n: Network) -> Any:
    return n.model(n.lr, return_routing=True)


@case
def grad(n: Network) -> Any:
    return jax.grad(n.loss, argnums=(0, 1))(n.parameters, n.lr)


@case
def grad_with_a_size(n: Network) -> Any:
    """The images are the first rows and columns of their arrays."""

    def loss(parameters: nnx.State, padded: jax.Array) -> jax.Array:
        sr = nnx.merge(n.graph, parameters)(padded, size=jnp.asarray(n.lr.shape[1:3]))
        return jnp.sum(jnp.sin(3 * sr[:, : 2 * n.lr.shape[1], : 2 * n.lr.shape[2]]))

    padded = jnp.pad(n.lr, ((0, 0), (0, 3), (0, 2), (0, 0)), constant_values=0.5)
    return jax.grad(loss, argnums=(0, 1))(n.parameters, padded)


@case
def vmap_over_images(n: Network) -> Any:
    return jax.vmap(n.upscale_one, (None, 0))(n.parameters, n.lr)


@case
def vmap_over_the_last_axis_of_images(n: Network) -> Any:
    return jax.vmap(n.upscale_one, (None, 3), 3)(n.parameters, jnp.moveaxis(n.lr, 0, 3))


@case
def vmap_over_parameters(n: Network) -> Any:
    return jax.vmap(n.upscale, (0, None))(n.ensemble, n.lr)


@case
def vmap_over_both(n: Network) -> Any:
    return jax.vmap(n.upscale_one)(n.ensemble, n.lr)


@case
def vmap_of_vmap(n: Network) -> Any:
    return jax.vmap(jax.vmap(n.upscale_one, (None, 0)), (0, None))(n.ensemble, n.lr)


@case
def gradients_of_each_example(n: Network) -> Any:
    return jax.vmap(jax.grad(n.loss_of_one), (None, 0))(n.parameters, n.lr)


@case
def gradients_of_each_network(n: Network) -> Any:
    return jax.jit(jax.vmap(jax.grad(n.loss), (0, None)))(n.ensemble, n.lr)


@case
def grad_of_vmap(n: Network) -> Any:
    return jax.grad(lambda p: jnp.sum(jax.vmap(n.loss_of_one, (None, 0))(p, n.lr)))(n.parameters)


@case
def jvp(n: Network) -> Any:
    tangents = jax.tree.map(jnp.cos, n.parameters)
    return jax.jvp(n.upscale, (n.parameters, n.lr), (tangents, DIRECTION))


@case
def linearize(n: Network) -> Any:
    values, along = jax.linearize(lambda lr: n.upscale(n.parameters, lr), n.lr)
    return values, along(DIRECTION)


@case
def jacfwd(n: Network) -> Any:
    return jax.jacfwd(lambda shift: n.upscale(n.parameters, n.lr * (1 + shift[0]) + shift[1]))(SHIFT)


@case
def hessian_vector_product(n: Network) -> Any:
    return jax.jvp(jax.grad(lambda lr: n.loss(n.parameters, lr)), (n.lr,), (DIRECTION,))


@case
def grad_of_grad(n: Network) -> Any:
    def penalty(parameters: nnx.State) -> jax.Array:
        gradients = jax.grad(n.loss)(parameters, n.lr)
        return jnp.vdot(*(jax.flatten_util.ravel_pytree(gradients)[0],) * 2)

    return jax.grad(penalty)(n.parameters)


@case
def hessian(n: Network) -> Any:
    return jax.hessian(n.loss_of_shift)(SHIFT)


@case
def checkpoint(n: Network) -> Any:
    return jax.grad(jax.checkpoint(n.loss))(n.parameters, n.lr)


@case
def scan(n: Network) -> Any:
    def total(parameters: nnx.State) -> jax.Array:
        return jax.lax.scan(lambda _, image: (None, n.loss_of_one(parameters, image)), None, n.lr)[1].sum()

    return jax.grad(total)(n.parameters)


@case
def while_loop(n: Network) -> Any:
    def body(state: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return state[0] + 1, n.upscale(n.parameters, state[1])[:, : n.lr.shape[1], : n.lr.shape[2]]

    return jax.lax.while_loop(lambda state: state[0] < 2, body, (jnp.zeros((), jnp.int32), n.lr))


@case
def shard_map(n: Network) -> Any:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")))

    def mean_loss(parameters: nnx.State, lr: jax.Array) -> jax.Array:
        return jax.lax.psum(n.loss(parameters, lr), "data")

    values = mapped(n.upscale, out_specs=P("data"))(n.parameters, n.lr)
    return values, jax.grad(mapped(mean_loss, out_specs=P()))(n.parameters, n.lr)


@eager_case
def pmap(n: Network) -> Any:
    return jax.pmap(n.upscale, in_axes=(None, 0))(n.parameters, n.lr[None])


@eager_case
def disable_jit(n: Network) -> Any:
    with jax.disable_jit():
        return n.upscale(n.parameters, n.lr)


@eager_case
def eval_shape(n: Network) -> Any:
    shapes = jax.eval_shape(jax.grad(n.loss), n.parameters, n.lr)
    return jax.tree.map(lambda leaf: np.array(leaf.shape), shapes)


@eager_case
def make_jaxpr(n: Network) -> Any:
    jaxpr = jax.make_jaxpr(n.upscale)(n.parameters, n.lr)
    return jax.extend.core.jaxpr_as_fun(jaxpr)(*jax.tree.leaves((n.parameters, n.lr)))


@eager_case
def export(n: Network) -> Any:
    exported = jax.export.export(jax.jit(lambda lr: n.upscale(n.parameters, lr)))(n.lr)
    return jax.export.deserialize(exported.serialize()).call(n.lr)


@eager_case
def nnx_jit(n: Network) -> Any:
    return nnx.jit(lambda model, lr: model(lr))(n.model, n.lr)


@eager_case
def nnx_grad_and_optimizer(n: Network) -> Any:
    model = copy.deepcopy(n.model)
    optimizer = nnx.Optimizer(model, optax.sgd(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(model: SeemoRe, optimizer: nnx.Optimizer) -> nnx.State:
        gradients = nnx.grad(lambda model: jnp.sum(jnp.sin(model(n.lr))))(model)
        optimizer.update(model, gradients)
        return gradients

    return step(model, optimizer), nnx.split(model)[1]


@case
def nnx_vmap(n: Network) -> Any:
    return nnx.vmap(lambda model, image: model(image[None])[0], in_axes=(None, 0))(n.model, n.lr)


@eager_case
def to_linen(n: Network) -> Any:
    module = nnx.bridge.to_linen(SeemoRe, n.model.config)
    variables = module.init(jax.random.key(0), n.lr)
    return variables, module.apply(variables, n.lr)


@eager_case
def pickle_and_deepcopy(n: Network) -> Any:
    return jax.jit(copy.deepcopy(pickle.loads(pickle.dumps(n.model))))(n.lr)


@case
def images_of_half_precision(n: Network) -> Any:
    return [n.upscale(n.parameters, n.lr.astype(dtype)) for dtype in (jnp.float16, jnp.bfloat16)]


@case
def bfloat16_parameters(n: Network) -> Any:
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), n.parameters)
    return n.upscale(half, n.lr), jax.grad(n.loss)(half, n.lr)


@eager_case
def x64_with_float64_images(n: Network) -> Any:
    with jax.enable_x64(True):
        lr = jnp.asarray(np.asarray(n.lr, np.float64))
        assert lr.dtype == jnp.float64
        return jax.jit(jax.value_and_grad(n.loss, argnums=(0, 1)))(n.parameters, lr)


@eager_case
def x64_with_float64_parameters(n: Network) -> Any:
    with jax.enable_x64(True):
        double = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), n.parameters)
        return jax.jit(n.upscale)(double, n.lr)


@eager_case
def x64_with_a_size(n: Network) -> Any:
    with jax.enable_x64(True):
        padded = jnp.pad(n.lr, ((0, 0), (0, 3), (0, 2), (0, 0)))
        return jax.jit(n.model)(padded, size=np.array(n.lr.shape[1:3]))[:, :10, :12]


@pytest.fixture(scope="module", autouse=True)
def _quick_to_compile() -> Iterator[None]:
    """Selects XLA's depthwise convolutions, which compile in half the time, as `grouped_convolutions` for one test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seemore_jax.network.depthwise.sum_of_shifted_products", jax.lax.conv_general_dilated)
        yield


@functools.cache
def _expected(name: str) -> Any:
    return computed(name, "plain")


def _case(implementation: str, name: str) -> Any:
    """Returns a parameter of the test. The quick suite has only a few for the TPU, whose kernels are slow here."""
    quick = name in _QUICK_ON_TPU if implementation == "tpu" else name not in _SLOW_EVERYWHERE
    return pytest.param(implementation, name, marks=() if quick else pytest.mark.thorough)


@pytest.mark.parametrize(
    ("implementation", "name"), [_case(i, name) for i in IMPLEMENTATIONS for name in (_ON_GPU if i == "gpu" else CASES)]
)
def test_each_transformation_gives_what_the_plain_implementation_gives(implementation: str, name: str) -> None:
    results = jax.tree_util.tree_leaves_with_path(computed(name, implementation))
    expected = jax.tree.leaves(_expected(name))
    assert results
    # One unit in the last place of bfloat16 is up to 1/128.
    tolerance = 1e-2 if name == "bfloat16_parameters" else 1e-5
    for (path, result), reference in zip(results, expected, strict=True):
        assert result.dtype == reference.dtype
        mine, theirs = np.asarray(result, np.float64), np.asarray(reference, np.float64)
        distance = np.linalg.norm(mine - theirs)
        assert distance <= tolerance * np.linalg.norm(theirs) + 1e-12, jax.tree_util.keystr(path)
