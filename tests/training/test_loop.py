"""If these fail, a run starts from other weights than it was told, or computes another network."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seemore_jax as sj
from seemore_jax.porting.names import to_torch
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loop import initial_parameters
from seemore_jax.training.loss import loss_terms
from tests.support import tiny_config
from tests.support.release import images, ported, release_model


def model_of(config: sj.SeemoReConfig, parameters: nnx.State) -> sj.SeemoRe:
    return nnx.merge(nnx.split(sj.SeemoRe.abstract(config))[0], parameters)


@pytest.mark.parametrize("scale", [2, 3])
def test_init_from_takes_all_but_the_upsampler_of_another_scale(tmp_path: Path, scale: int) -> None:
    config = tiny_config.get_config()
    small = Experiment.of(config).network
    start = ported(release_model(small), small)
    sj.save(start, tmp_path / "start.safetensors")
    config.scale = scale
    config.init_from = str(tmp_path / "start.safetensors")
    result = to_torch(model_of(dataclasses.replace(small, scale=scale), initial_parameters(Experiment.of(config))))
    for name, tensor in to_torch(start).items():
        if name.startswith("upsampler") and scale != 2:
            assert result[name].shape[0] == 3 * scale**2
            assert np.std(result[name]) > 0
        else:
            np.testing.assert_array_equal(result[name], tensor, err_msg=name)


def test_init_from_another_network_is_refused(tmp_path: Path) -> None:
    config = tiny_config.get_config()
    other = dataclasses.replace(Experiment.of(config).network, embedding_dim=12)
    sj.save(ported(release_model(other), other), tmp_path / "other.safetensors")
    config.init_from = str(tmp_path / "other.safetensors")
    with pytest.raises(sj.InputError, match="embedding_dim=12"):
        initial_parameters(Experiment.of(config))


def test_rematerialization_changes_nothing_but_memory() -> None:
    config = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1, recursive=1, global_kernel_size=3)
    graph, state = nnx.split(ported(release_model(config), config))
    recomputing, _ = nnx.split(sj.SeemoRe.abstract(dataclasses.replace(config, rematerialize=True)))
    lr = jnp.asarray(images(2, 16, 16))
    hr = jnp.zeros((2, 32, 32, 3))

    def gradient(graph: nnx.GraphDef[sj.SeemoRe]) -> nnx.State:
        return jax.jit(jax.grad(lambda state: loss_terms(nnx.merge(graph, state)(lr), hr).total))(state)

    for mine, expected in zip(jax.tree.leaves(gradient(recomputing)), jax.tree.leaves(gradient(graph)), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
