"""If these fail, configurations differ from the release's or nonsense is accepted."""

import dataclasses

import jax
import pytest
from flax import nnx

from seemore_jax import InputError, SeemoRe, SeemoReConfig

# Parameters of the nine published configurations (../shared/architecture.md, from the release).
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
