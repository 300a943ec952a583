"""If these fail, an ablation is another network than its name says, or its documentation has wrong figures."""

import re
from pathlib import Path

import jax
import pytest
from flax import nnx

from seemore_jax import SeemoRe
from seemore_jax.configs import ablations
from seemore_jax.training.experiment import read_experiment
from seemore_jax.training.loop import train
from tests.support.training_runs import checkpoint_steps, losses, random_dataset

# The warning comes from ml_collections.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.mark.thorough
def test_each_has_the_parameters_and_macs_of_its_description() -> None:
    described = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d.]+) \|$", ablations.__doc__ or "", re.MULTILINE)
    assert [name for name, _, _ in described] == list(ablations.ABLATIONS)
    networks = set()
    for name, parameters, macs in described:
        network = read_experiment(f"configs/ablations.py:{name}").network
        state = nnx.state(SeemoRe.abstract(network), nnx.Param)
        assert f"{sum(leaf.size for leaf in jax.tree.leaves(state)):,}" == parameters, name
        assert f"{network.macs(720, 1280) / 1e9:.2f}" == macs, name
        networks.add(network)
    assert len(networks) == len(described)


@pytest.mark.thorough
@pytest.mark.usefixtures("grouped_convolutions")
def test_one_is_trained(tmp_path: Path) -> None:
    random_dataset(tmp_path / "data")
    small = ("num_layers=1", "embedding_dim=8", "recursive=1", "global_kernel_size=3")
    fields = (
        "dataset=image_folder",
        f"data_dir={tmp_path / 'data'}",
        "patch_size=16",
        "batch_size=2",
        "num_workers=0",
        "num_steps=2",
        "log_every=1",
        *(f"architecture.{field}" for field in small),
    )
    config = read_experiment("configs/ablations.py:topk_2", [f"--config.{field}" for field in fields])
    assert config.network.topk == 2
    assert train(config, tmp_path / "run") == 0
    assert list(losses(tmp_path / "run")) == [1, 2]
    assert checkpoint_steps(tmp_path / "run") == [2]
