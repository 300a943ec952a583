"""What the tests of programs that are compiled ahead share: experiments, and what is expected of their reports."""

from typing import Any

import jax
from flax import nnx

from seemore_jax.ahead_of_time.report import Report
from seemore_jax.configs.release import recipe
from seemore_jax.network import SeemoRe
from seemore_jax.training.experiment import Experiment


def experiment(scale: int, variant: str = "T", dtype: str = "bfloat16", **fields: Any) -> Experiment:
    """Returns the recipe of a network, with some fields replaced."""
    config = recipe(variant, scale)
    config.compute_dtype, config.precision = dtype, "default" if dtype == "bfloat16" else "highest"
    config.update(fields)
    return Experiment.of(config)


def bytes_to_send(config: Experiment) -> int:
    """Returns the bytes of the gradients, two loss terms, the counts of chosen experts, and the flag to stop."""
    network = config.network
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(SeemoRe.abstract(network))))
    return 4 * (parameters + 2 + network.num_layers * network.num_experts + 1)


def assert_it_fits(report: Report) -> None:
    """Checks that a program fits into the memory of a device, and that it computes and moves something."""
    assert 0 < report.occupied < report.hbm_bytes
    assert report.matrix_flops > 10**9
    assert report.hbm_traffic > 10**7
