"""An experiment: its configuration file and flags, parsed and checked once into a typed dataclass."""

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from absl import flags
from ml_collections import ConfigDict, config_flags

from seemore_jax.configs import config_file
from seemore_jax.data.degradation import DEGRADATIONS, FixedDegradation, JpegDegradation
from seemore_jax.network import SeemoReConfig
from seemore_jax.system.errors import InputError

SCHEDULES = ("halving", "cosine")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Experiment:
    """A training run, as its configuration describes it.

    Attributes:
      network: the network, and how it is computed.
      dataset: name of the prepared dataset: div2k, df2k, image_folder, or a TFDS dataset with images lr and hr.
      data_dir: folder of the datasets.
      sources: images or folders from which `image_folder` is prepared at the start if it is missing; may be empty.
      validation: folders of images to validate on, as `eval.py --data` takes them; may be empty.
      patch_size: side of an LR patch, in pixels.
      batch_size: patches of a step, over all devices of all processes.
      degradation: "bicubic" leaves LR patches as they are; "jpeg" compresses them, as the next three fields say.
      jpeg_quality: lowest and highest quality of libjpeg.
      jpeg_subsampling: names of the chroma subsamplings, such as "4:2:0".
      jpeg_clean_share: share of the patches that are not compressed, in [0, 1].
      validation_degradation: degradation of the validation's LR images: "bicubic" or "jpeg:QUALITY".
      num_workers: worker processes that decode images, on each host; 0 means threads.
      data_on_device: whether all tiles are decoded once onto the devices.
      num_steps: length of the run, in steps.
      learning_rate: Adam's, at its highest.
      schedule: "halving", as the release, or "cosine", down to `final_learning_rate`.
      final_learning_rate: end of the cosine schedule.
      warmup_steps: steps in which the learning rate rises linearly at the start.
      gradient_clip: largest global norm of the gradient; 0 switches clipping off.
      accumulate: pieces into which each device's patches are cut to save memory, one computed after the other.
      ema_decay: decay of the moving average of the parameters, in [0, 1); 0 switches it off.
      init_from: weights to start from; "" for random ones.
      seed: of the initial parameters and of the order of the data.
      log_every: steps between two records of the loss.
      checkpoint_every: steps between two checkpoints.
      validate_every: steps between two validations.
      keep_checkpoints: number of the newest checkpoints that are kept, beside the best one.
      settings: the configuration as it was given, for `config.json`.

    Raises:
      InputError: a value is out of its range.
    """

    network: SeemoReConfig
    dataset: str
    data_dir: str
    sources: tuple[str, ...]
    validation: tuple[str, ...]
    patch_size: int
    batch_size: int
    num_workers: int
    data_on_device: bool
    num_steps: int
    learning_rate: float
    schedule: str
    final_learning_rate: float
    warmup_steps: int
    gradient_clip: float
    accumulate: int
    ema_decay: float
    init_from: str
    seed: int
    log_every: int
    checkpoint_every: int
    validate_every: int
    keep_checkpoints: int
    degradation: str = "bicubic"
    jpeg_quality: tuple[int, ...] = (30, 95)
    jpeg_subsampling: tuple[str, ...] = ("4:2:0", "4:2:2", "4:4:4")
    jpeg_clean_share: float = 0.1
    validation_degradation: str = "bicubic"
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for field in (
            *("num_steps", "batch_size", "patch_size", "accumulate"),
            *("log_every", "checkpoint_every", "validate_every"),
        ):
            self._require(getattr(self, field) >= 1, field, "at least 1")
        for field in ("warmup_steps", "gradient_clip", "final_learning_rate", "num_workers"):
            self._require(getattr(self, field) >= 0, field, "0 or more")
        self._require(self.learning_rate > 0, "learning_rate", "positive")
        self._require(0 <= self.ema_decay < 1, "ema_decay", "in [0, 1); 0 is off")
        self._require(self.warmup_steps < self.num_steps, "warmup_steps", f"below num_steps={self.num_steps}")
        self._require(self.degradation in DEGRADATIONS, "degradation", f"one of {', '.join(DEGRADATIONS)}")
        self.patch_degradation  # noqa: B018 (raises for wrong settings)
        self.lr_degradation  # noqa: B018 (likewise)
        self._require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")

    @classmethod
    def of(cls, config: ConfigDict) -> "Experiment":
        """Parses a configuration, such as `get_config()` of a file in `configs/` returns.

        Raises:
          InputError: a field is missing, has the wrong type, or is out of its range.
        """
        types = get_type_hints(cls)
        names = [field.name for field in dataclasses.fields(cls) if field.name not in ("network", "settings")]
        # Configurations of older versions lack the newest fields, which have defaults.
        optional = {f.name for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
        values = {name: _parsed(config, name, types[name]) for name in names if name in config or name not in optional}
        return cls(network=network_of(config), settings=json.loads(config.to_json_best_effort()), **values)

    @property
    def scale(self) -> int:
        """HR / LR."""
        return self.network.scale

    @property
    def has_average(self) -> bool:
        """Whether the run keeps a moving average of the parameters."""
        return self.ema_decay > 0

    @property
    def patch_degradation(self) -> JpegDegradation | None:
        """The degradation of LR patches in training; None if they stay as they are."""
        degradation = JpegDegradation(self.jpeg_quality, self.jpeg_subsampling, self.jpeg_clean_share)
        return degradation if self.degradation == "jpeg" else None

    @property
    def lr_degradation(self) -> FixedDegradation:
        """The degradation of the validation's LR images."""
        return FixedDegradation.of(self.validation_degradation)

    def check_devices(self, count: int) -> None:
        """Raises InputError if the batch cannot be split evenly over that many devices."""
        pieces = count * self.accumulate
        expected = f"a multiple of {pieces} ({count} devices × accumulate={self.accumulate})"
        self._require(self.batch_size % pieces == 0, "batch_size", expected)

    def _require(self, holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise InputError(f"config: {field} must be {expected}, not {getattr(self, field)!r}")


def network_of(config: ConfigDict) -> SeemoReConfig:
    """Returns the network of a configuration, and how it is computed."""
    try:
        return dataclasses.replace(
            described_network(config),
            compute_dtype=config.compute_dtype,
            precision=config.precision,
            rematerialize=config.rematerialize,
            implementation=config.implementation,
        )
    except (AttributeError, KeyError) as error:
        raise InputError(f"config: a field of the network is missing ({error})") from error


def described_network(config: ConfigDict | Mapping[str, Any]) -> SeemoReConfig:
    """Returns the network that a configuration, or its `config.json`, describes.

    It is a published variant, except for the fields in `architecture` that are not None.
    """
    replaced = {name: value for name, value in config["architecture"].items() if value is not None}
    return SeemoReConfig.variant(config["variant"], config["scale"], **replaced)


def read_experiment(file: str, overrides: Sequence[str] = ()) -> Experiment:
    """Reads a configuration.

    Args:
      file: the path of a file, or the name of a configuration of this package (`config_file`).
      overrides: arguments that change it, such as `--config.FIELD=VALUE`, as `train` takes them.

    Raises:
      InputError: the file cannot be read, or a field or value is wrong.
    """
    return Experiment.of(_read_config(file, overrides))


def _read_config(file: str, overrides: Sequence[str] = ()) -> ConfigDict:
    arguments = ["train", f"--config={config_file(file)}", *overrides]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)
    try:
        left = values(arguments)
        if len(left) > 1:
            raise flags.Error(f"unexpected argument {left[1]!r}")
        config: Any = values["config"].value
        config.to_dict()  # of a file that could not be loaded, any attribute says why
    except Exception as error:  # a configuration file is a program, and can fail in any way
        unknown = unknown_field(file, overrides) if overrides else None
        raise InputError(unknown or f"{file}: {configuration_error(error)}") from error
    return config


def unknown_field(file: str, arguments: Sequence[str]) -> str | None:
    """Returns a line about the first `--config.FIELD=VALUE` whose field the configuration in `file` does not have.

    Returns None if it has all of them.

    Raises:
      InputError: the file cannot be read.
    """
    experiment = _read_config(file)
    for argument in arguments:
        if path := re.match(r"--?config\.([^=]*)", argument):
            fields: Any = experiment
            for name in path[1].split("."):
                known = list(fields.keys()) if isinstance(fields, ConfigDict) else []
                if name not in known:
                    close = "".join(f" did you mean {like}?" for like in difflib.get_close_matches(name, known, n=1))
                    return f"{path[0]}: there is no such field;{close} {_list_of(known)}"
                fields = fields[name]
    return None


def _list_of(fields: Sequence[str]) -> str:
    return f"fields here are {', '.join(fields)}" if fields else "there are no fields here"


def _parsed(config: ConfigDict, name: str, expected: Any) -> Any:
    """Returns a field's value as the type that `Experiment` declares; whole numbers are good floats."""
    if name not in config:
        raise InputError(f"config: {name} is missing")
    value = config[name]
    if get_origin(expected) is tuple:
        kind = get_args(expected)[0]
        if isinstance(value, list | tuple) and all(isinstance(each, kind) for each in value):
            return tuple(value)
    elif expected is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif expected is not float and isinstance(value, expected) and (expected is bool or not isinstance(value, bool)):
        return value
    raise InputError(f"config: {name} must be {_described(expected)}, not {value!r}")


def _described(expected: Any) -> str:
    names = {int: "an integer", float: "a number", bool: "True or False", str: "a string"}
    return names.get(expected, f"a tuple of {'strings' if get_args(expected)[:1] == (str,) else 'integers'}")


def configuration_error(error: Exception) -> str:
    """Returns one line about an error of ml_collections: its first, or that of the error in the configuration file."""
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if any(line.startswith("Traceback") for line in lines):
        return re.sub(r"^\w*Error: ", "", lines[-1])
    return lines[0]
