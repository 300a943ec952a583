"""What an experiment's configuration means: its network, and whether the rest makes sense."""

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from seemore_jax.errors import InputError
from seemore_jax.exit_status import configuration_error
from seemore_jax.network import SeemoReConfig
from seemore_jax.training.optimizer import SCHEDULES


def read_experiment(file: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The experiment of a configuration file, changed by arguments `--config.FIELD=VALUE`, as `train.py` takes them.

    Raises:
      InputError: the file cannot be read, or there is no such field or value.
    """
    arguments = ["train.py", f"--config={file}", *overrides]
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
    """A line about the first of the arguments `--config.FIELD=VALUE` whose field the experiment in `file` has not.

    None if it has all of them.

    Raises:
      InputError: the file cannot be read.
    """
    experiment = read_experiment(file)
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


def described_network(config: ConfigDict | Mapping[str, Any]) -> SeemoReConfig:
    """The network that an experiment, or its `config.json`, describes: a published variant, but for some fields.

    Those are in `architecture`, where None stands for the variant's own value.
    """
    replaced = {name: value for name, value in config["architecture"].items() if value is not None}
    return SeemoReConfig.variant(config["variant"], config["scale"], **replaced)


def network_config(config: ConfigDict) -> SeemoReConfig:
    """The network of an experiment, and how it is computed."""
    return dataclasses.replace(
        described_network(config),
        compute_dtype=config.compute_dtype,
        precision=config.precision,
        rematerialize=config.rematerialize,
        implementation=config.implementation,
    )


def check_training(config: ConfigDict, device_count: int) -> None:
    """Raises InputError, in one line, for a training configuration that cannot run on that many devices."""
    network_config(config)
    for field in ("num_steps", "batch_size", "patch_size", "accumulate", "checkpoint_every", "validate_every"):
        _require(config[field] >= 1, config, field, "at least 1")
    for field in ("warmup_steps", "gradient_clip", "final_learning_rate", "num_workers"):
        _require(config[field] >= 0, config, field, "0 or more")
    _require(config.learning_rate > 0, config, "learning_rate", "positive")
    _require(0 <= config.ema_decay < 1, config, "ema_decay", "in [0, 1); 0 is off")
    _require(config.warmup_steps < config.num_steps, config, "warmup_steps", f"below num_steps={config.num_steps}")
    _require(config.schedule in SCHEDULES, config, "schedule", f"one of {', '.join(SCHEDULES)}")
    pieces = device_count * config.accumulate
    _require(
        config.batch_size % pieces == 0,
        config,
        "batch_size",
        f"a multiple of {pieces} ({device_count} devices × accumulate={config.accumulate})",
    )


def _require(holds: bool, config: ConfigDict, field: str, expected: str) -> None:
    if not holds:
        raise InputError(f"config: {field} must be {expected}, not {config[field]!r}")
