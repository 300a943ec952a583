"""If these fail, a training step sends more over the network than the mean of its gradients, once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEVICES = 8
ROOT = Path(__file__).parents[2]


def compile_step(**fields: Any) -> None:
    """In the other process: prints the collectives of a compiled step and the values that they should carry."""
    import jax
    from flax import nnx

    from seemore_jax.ahead_of_time.program_cost import program_cost
    from seemore_jax.ahead_of_time.programs import trace_step
    from seemore_jax.network import SeemoRe
    from seemore_jax.training.experiment import Experiment
    from tests.support import tiny_config

    config = tiny_config.get_config()
    config.update(fields)
    config.implementation = "plain"
    assert len(jax.devices()) == DEVICES
    experiment = Experiment.of(config)
    compiled = trace_step(experiment, jax.devices(), DEVICES * config.accumulate).lower().compile()
    network = experiment.network
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(SeemoRe.abstract(network))))
    found = [(one.kind, one.bytes, one.times) for one in program_cost(compiled.as_text()).collectives]
    # Beside the gradients: two terms of the loss, how often each expert was chosen, and whether to stop.
    values = parameters + 2 + network.num_layers * network.num_experts + 1
    print(json.dumps({"collectives": found, "values": values}))


@pytest.mark.thorough
@pytest.mark.parametrize("fields", [{}, {"accumulate": 2, "gradient_clip": 1.0}])
def test_a_step_has_one_all_reduce_of_the_gradients_and_a_few_scalars(fields: dict[str, Any]) -> None:
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
    code = f"from {__name__} import compile_step; compile_step(**{fields!r})"
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["collectives"] == [["all-reduce", 4 * result["values"], 1]]
