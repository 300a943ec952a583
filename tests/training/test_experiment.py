"""If these fail, an experiment from the command line trains another network than it says, or cannot be started."""

import pytest
from ml_collections import ConfigDict

from seemore_jax import InputError, SeemoReConfig
from seemore_jax.configs.release import recipe
from seemore_jax.network.config import stored_fields
from seemore_jax.training.experiment import Experiment, read_experiment

# Of ml_collections.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

T_X4 = "configs/seemore_t_x4.py"
# Each field, and a value that the variant does not have.
OTHERS = {
    "in_chans": 3,  # the only one
    "num_experts": 4,
    "num_layers": 2,
    "embedding_dim": 12,
    "img_range": 255.0,
    "use_shuffle": False,
    "global_kernel_size": 5,
    "recursive": 1,
    "lr_space": "linear",
    "topk": 2,
}


def test_every_stored_field_can_be_set() -> None:
    assert set(OTHERS) == set(stored_fields()) - {"scale"}
    for name, value in OTHERS.items():
        config = read_experiment(T_X4, [f"--config.architecture.{name}={value}"])
        assert config.network == SeemoReConfig.variant("T", 4, **{name: value})
    assert read_experiment(T_X4).network == SeemoReConfig.variant("T", 4)


@pytest.mark.parametrize(
    ("argument", "complaint"),
    [
        ("--config.architecture.topk=two", "invalid literal for int"),
        ("--config.architecture.use_shuffle=perhaps", "Non-boolean"),
        ("--config.architecture.top_k=2", "architecture.top_k: there is no such field; did you mean topk"),
        ("--config.architecture.scale=2", "architecture.scale: there is no such field"),
        ("--config.learning_rte=1", "learning_rte: there is no such field; did you mean learning_rate"),
        ("--config.zzz=1", r"zzz: there is no such field; fields here are accumulate, architecture, batch_size, "),
    ],
)
def test_a_wrong_field_is_named_with_those_that_exist(argument: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as raised:
        read_experiment(T_X4, [argument])
    assert "\n" not in str(raised.value)


def test_an_error_in_a_configuration_file_is_its_own_line() -> None:
    with pytest.raises(InputError, match=r"ablations.py:none: give one of the ablations after a colon.*topk_2"):
        read_experiment("configs/ablations.py:none")


def test_a_configuration_of_an_older_version_takes_the_defaults() -> None:
    config = recipe("T", 4)
    for field in ("degradation", "jpeg_quality", "jpeg_subsampling", "jpeg_clean_share", "validation_degradation"):
        del config[field]
    assert Experiment.of(config) == Experiment.of(recipe("T", 4))


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("degradation", "blur", "degradation must be one of bicubic, jpeg"),
        ("jpeg_quality", (0, 95), "jpeg_quality must be"),
        ("jpeg_subsampling", ("4:1:1",), "jpeg_subsampling must be"),
        ("jpeg_quality", ("a", "b"), "jpeg_quality must be a tuple of integers"),
        ("validation_degradation", "jpeg:0", "jpeg:QUALITY"),
        ("batch_size", "many", "batch_size must be an integer"),
        ("learning_rate", None, "learning_rate must be a number"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: object, complaint: str) -> None:
    fields = recipe("T", 4).to_dict()
    with pytest.raises(InputError, match=complaint):
        Experiment.of(ConfigDict({**fields, field: value}))
