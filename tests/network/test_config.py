"""If these tests fail, configurations differ from those of the release, or wrong values are accepted."""

import dataclasses
import itertools
from typing import Any

import jax
import pytest
from flax import nnx

from seemore_jax import InputError, SeemoRe, SeemoReConfig

# Numbers of parameters of the nine published configurations, counted in the release.
PARAMETERS = {
    ("T", 2): 220_104,
    ("T", 3): 224_979,
    ("T", 4): 231_804,
    ("B", 2): 490_364,
    ("B", 3): 496_859,
    ("B", 4): 505_952,
    ("L", 2): 953_308,
    ("L", 3): 959_803,
    ("L", 4): 968_896,
}


@pytest.mark.parametrize(("name", "scale"), PARAMETERS)
def test_variants_have_the_published_number_of_parameters(name: str, scale: int) -> None:
    config = SeemoReConfig.variant(name, scale=scale)
    state = nnx.state(SeemoRe.abstract(config), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) == PARAMETERS[name, scale]
    assert config.variant_name == name


# Multiply-accumulate operations for a 1280×720 output in the paper, in billions, and the sum of the ranks of the chosen
# experts over the layers: the sum for which the count has all digits of the value in the paper.
PUBLISHED_MACS = {
    ("T", 2): ("44.83", 42),
    ("T", 3): ("20.19", 24),
    ("T", 4): ("11.78", 26),
    ("B", 2): ("100.9", 38),
    ("B", 3): ("45.38", 34),
    ("B", 4): ("26.27", 56),
    ("L", 2): ("195.5", 58),
    ("L", 3): ("87.74", 80),
    ("L", 4): ("49.94", 78),
}


@pytest.mark.parametrize(("name", "scale"), PUBLISHED_MACS)
def test_macs_are_those_of_the_paper(name: str, scale: int) -> None:
    config = SeemoReConfig.variant(name, scale)
    published, ranks = PUBLISHED_MACS[name, scale]
    sums = {sum(chosen) for chosen in itertools.combinations_with_replacement(config.ranks, config.num_layers)}
    assert ranks in sums
    assert f"{config.macs(720, 1280, rank=ranks / config.num_layers) / 1e9:.4g}" == published
    assert config.macs(720, 1280) / 1e9 == pytest.approx(float(published), rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [{}, {"topk": 2, "lr_space": "double"}, {"recursive": 3, "num_experts": 4}, {"global_kernel_size": 5}],
    ids=str,
)
def test_macs_are_those_of_the_kernels(changes: dict[str, Any]) -> None:
    """Each value of a kernel is multiplied once for each pixel to which it is applied."""
    config, height, width = SeemoReConfig.variant("B", 3, **changes), 240, 426
    counted = 0.0
    for path, leaf in jax.tree_util.tree_flatten_with_path(nnx.state(SeemoRe.abstract(config), nnx.Param))[0]:
        name = jax.tree_util.keystr(path)
        sizes = [(height // 4**times) * (width // 4**times) for times in range(config.recursive + 1)]
        if "kernel'" not in name:
            continue
        if "aggregate" in name:
            counted += leaf.size * sum(sizes[1:])
        elif "context_" in name:
            counted += leaf.size * sizes[-1]
        elif "router" in name:
            counted += leaf.size
        else:
            counted += leaf.size * sizes[0] * (config.topk / config.num_experts if "experts" in name else 1)
    assert config.macs(720, 1280) == round(counted)


def test_config_is_frozen_and_survives_its_dictionary() -> None:
    config = SeemoReConfig.variant("L", scale=3, topk=2, lr_space="linear")
    assert SeemoReConfig.from_dict(config.to_dict()) == config
    assert config.variant_name is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.scale = 2  # type: ignore[misc]


def test_how_to_compute_is_not_stored_with_what_to_compute() -> None:
    config = SeemoReConfig.variant("T", 4, compute_dtype="bfloat16", precision="default")
    assert SeemoReConfig.from_dict(config.to_dict()) == SeemoReConfig.variant("T", 4)
    assert config.variant_name == "T"


@pytest.mark.parametrize(
    ("lr_space", "ranks"), [("exp", (2, 4, 8, 16)), ("linear", (2, 3, 4, 5)), ("double", (2, 4, 6, 8))]
)
def test_ranks_grow_as_in_the_release(lr_space: str, ranks: tuple[int, ...]) -> None:
    assert SeemoReConfig(num_experts=4, lr_space=lr_space).ranks == ranks


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 0),
        ("scale", "4"),
        ("in_chans", 1),
        ("num_experts", True),
        ("num_layers", 0),
        ("embedding_dim", 2.5),
        ("img_range", 0.0),
        ("img_range", float("nan")),
        ("use_shuffle", 1),
        ("global_kernel_size", 4),
        ("recursive", -1),
        ("recursive", 6),
        ("img_range", 10**400),
        ("lr_space", "log"),
        ("lr_space", ["exp"]),
        ("topk", 4),
        ("compute_dtype", "float16"),
        ("precision", "low"),
        ("depth", 3),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_a_wrong_field_is_named(field: str, value: object) -> None:
    with pytest.raises(InputError, match=field):
        SeemoReConfig.from_dict({field: value})


@pytest.mark.parametrize(("name", "scale"), [("S", 4), ("T", 5), ("t", 2)])
def test_only_published_variants_have_a_name(name: str, scale: int) -> None:
    with pytest.raises(InputError, match="variant"):
        SeemoReConfig.variant(name, scale)
