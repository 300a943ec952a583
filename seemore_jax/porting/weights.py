"""Loads and saves weights in all supported formats.

| format        | suffix         | where the configuration is stored    |
|---------------|----------------|--------------------------------------|
| PyTorch       | `.pth`, `.pt`  | the entry `seemore_config`           |
| safetensors   | `.safetensors` | the metadata entry `seemore_config`  |
| Hugging Face  | a directory    | `config.json` (+ `model.safetensors`)|

All formats store float32 tensors with the names and layouts of the PyTorch release. A directory has the files that the
Hugging Face hub expects, with a model card. A repository of the hub is loaded by its name.
"""

import dataclasses
import difflib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from seemore_jax.network import SeemoRe, SeemoReConfig
from seemore_jax.network.config import stored_fields
from seemore_jax.porting.bundled import BUNDLED, DEFAULT_MODEL, EARLIER
from seemore_jax.porting.errors import WeightsError
from seemore_jax.porting.hub import download, is_repository_name, model_card
from seemore_jax.porting.hyperparameters import Hyperparameters, read_hyperparameters
from seemore_jax.porting.names import from_torch, to_torch
from seemore_jax.porting.torch_file import read_torch_file, write_torch_file
from seemore_jax.system.files import atomic_write

# How similar, from 0 to 1, the name of an existing file must be to be suggested instead of a missing one.
_SIMILAR = 0.6

_TORCH_SUFFIXES = (".pth", ".pt")
_CONFIG_ENTRY = "seemore_config"
# A file of a training run can have both entries. The average of the parameters (EMA) is the better network.
_PARAMETER_ENTRIES = ("params_ema", "params")

Tensors = dict[str, np.ndarray]
# The entry that was read, its content (not checked yet), and the stored configuration.
FileContent = tuple[str, dict[Any, Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class StoredWeights:
    """The weights in a file or directory, before they are made into a model.

    Attributes:
      source: the file or directory.
      entry: the part of the file that was read, such as `params_ema`.
      tensors: arrays with the names and layouts of the PyTorch release, in the floating-point type of the file.
      hyperparameters: the configuration, and where each of its values comes from.
    """

    source: Path
    entry: str
    tensors: Tensors
    hyperparameters: Hyperparameters

    @property
    def config(self) -> SeemoReConfig:
        """Returns the configuration."""
        return self.hyperparameters.config

    def to_model(self) -> SeemoRe:
        """Makes the model.

        Returns:
          The model, with float32 parameters.

        Raises:
          WeightsError: the tensors are not exactly the parameters of the model.
        """
        return from_torch(self.config, self.tensors, str(self.source))


def load(source: str | os.PathLike[str] = DEFAULT_MODEL, **overrides: Any) -> SeemoRe:
    """Loads a model.

    Args:
      source: a `.pth` or `.pt` file, for which PyTorch need not be installed; a `.safetensors` file; a directory with
        `model.safetensors`; the name of bundled weights, such as "T-x4", or of those that they replaced, such as
        "T-x4-4de4d786"; or a repository of the Hugging Face hub with such a directory, as "user/name", or as
        "user/name@revision" for a branch, a tag or a commit, which needs the extra `hub`. A path that exists is
        preferred. If there is a folder `user`, the hub is not asked.
      **overrides: fields of `SeemoReConfig`. Most fields follow from the shapes. `use_shuffle`, `recursive`, `topk` and
        `img_range` are needed for a file of another program whose network is not one of the nine published
        configurations. `compute_dtype` and `precision` choose how the model computes.

    Returns:
      The model.

    Raises:
      WeightsError: the source is missing, damaged or refused, is not a SeemoRe, has missing or unknown parameters, or
        does not tell the value of a field that was not given.
    """
    return read_weights(source, **overrides).to_model()


def read_weights(source: str | os.PathLike[str], **overrides: Any) -> StoredWeights:
    """Reads weights and their configuration, without making a model.

    Args:
      source: see `load`.
      **overrides: see `load`.

    Returns:
      The weights, and where each value of the configuration comes from.

    Raises:
      WeightsError: see `load`.
    """
    unknown = sorted(overrides.keys() - {field.name for field in dataclasses.fields(SeemoReConfig)})
    if unknown:
        raise WeightsError(f"{unknown[0]} is not a field of SeemoReConfig")
    path = _find(source)
    entry, content, stored = _reader(path)(path)
    tensors = _checked_tensors(content, path)
    hyperparameters = read_hyperparameters(tensors, stored, overrides, str(path))
    return StoredWeights(path, entry, tensors, hyperparameters)


def save(model: SeemoRe, path: str | os.PathLike[str], *, license: str = "unknown") -> None:
    """Saves a model in the format that the suffix of the path names.

    All formats store the configuration too, so that `load` needs no arguments. A file is replaced only when the new one
    is complete. PyTorch reads `.pth` files with `weights_only=True`; their entry `params` is the state of the release's
    `seemore.module.SeemoRe`.

    Args:
      model: the model.
      path: a file with the suffix `.pth`, `.pt` or `.safetensors`, or a directory, which is a path without suffix. A
        directory also gets a model card, README.md; an existing card is kept, because people edit it.
      license: the licence in the model card, in the hub's spelling, such as "apache-2.0".

    Raises:
      WeightsError: the suffix is unknown, or the path cannot be written.
    """
    path = Path(path)
    write = _writer(path)
    tensors = to_torch(model)
    try:
        write(path, tensors, model.config)
        if write is _write_directory and not (path / "README.md").exists():
            _write_card(path / "README.md", tensors, model.config, license)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_target(path: str | os.PathLike[str]) -> None:
    """Checks that `save` knows the format of a path, before the model is computed.

    Args:
      path: the file or directory that is to be written.

    Raises:
      WeightsError: the suffix is unknown.
    """
    _writer(Path(path))


def _find(source: str | os.PathLike[str]) -> Path:
    path = Path(source)
    if path.exists():
        return path
    if re.fullmatch(r"[A-Z]-x\d+(-[a-z]+)?(-[0-9a-f]{8})?", str(source)):
        for folder in (BUNDLED, BUNDLED / EARLIER):
            bundled = folder / f"{source}.safetensors"
            if bundled.exists():
                return bundled
        names = sorted(file.stem for file in BUNDLED.glob("*.safetensors"))
        available = f"bundled are {', '.join(names)}" if names else "this version bundles none"
        raise WeightsError(f"{source}: no bundled weights of that name ({available}); give a weights file")
    if isinstance(source, str) and is_repository_name(source):
        if not Path(path.parts[0]).is_dir():
            return download(source)
        note = f" (the hub is not asked: {path.parts[0]} is a folder here)"
    else:
        note = ""
    raise WeightsError(f"{path}: no such file or directory{note}{_suggestion(path)}")


def _suggestion(path: Path) -> str:
    """Returns a phrase that suggests existing files with similar names, or an empty string."""
    try:
        names = [file.name for file in path.parent.iterdir()]
    except OSError:
        return ""
    likeness = {
        name: max(difflib.SequenceMatcher(None, path.name, form).ratio() for form in (name, Path(name).stem))
        for name in names
    }
    similar = sorted((name for name in names if likeness[name] >= _SIMILAR), key=lambda name: (-likeness[name], name))
    return f"; did you mean {' or '.join(str(path.parent / name) for name in similar[:3])}?" if similar else ""


def _reader(path: Path) -> Callable[[Path], FileContent]:
    if path.is_dir():
        return _read_directory
    if path.suffix.lower() in _TORCH_SUFFIXES:
        return _read_torch
    if path.suffix.lower() == ".safetensors":
        return _read_safetensors
    raise _unknown_suffix(path)


def _writer(path: Path) -> Callable[[Path, Tensors, SeemoReConfig], None]:
    if path.suffix.lower() in _TORCH_SUFFIXES:
        return _write_torch
    if path.suffix.lower() == ".safetensors":
        return _write_safetensors
    if path.suffix == "" or path.is_dir():
        return _write_directory
    raise _unknown_suffix(path)


def _unknown_suffix(path: Path) -> WeightsError:
    return WeightsError(f"{path}: unknown format {path.suffix!r}; use .pth, .pt, .safetensors or a directory")


def _read_torch(path: Path) -> FileContent:
    content = read_torch_file(path)
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}, not a dict of parameters")
    entry = next((name for name in _PARAMETER_ENTRIES if isinstance(content.get(name), dict)), None)
    tensors = content if entry is None else content[entry]
    stored = content.get(_CONFIG_ENTRY, {}) if entry else {}
    return entry or "the file itself", tensors, _stored_config(stored, path)


def _read_safetensors(path: Path) -> FileContent:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:
        # AttributeError, TypeError and ValueError: NumPy does not have the type of a tensor.
        raise WeightsError(f"{path}: damaged, or not a safetensors file ({error})") from error
    return "the file itself", tensors, _parse_config(metadata.get(_CONFIG_ENTRY, "{}"), path)


def _read_directory(path: Path) -> FileContent:
    weights, config = path / "model.safetensors", path / "config.json"
    if not weights.exists():
        raise WeightsError(f"{path}: no model.safetensors in this directory")
    _, tensors, stored = _read_safetensors(weights)
    if config.exists():
        written = stored
        stored = _parse_config(config.read_bytes(), config)
        differing = [field for field, value in written.items() if stored.get(field, value) != value]
        if differing:  # happens after a save that failed between the two files
            raise WeightsError(
                f"{config}: does not belong to {weights.name}, which was saved with another {differing[0]}"
            )
    return "model.safetensors", tensors, stored


def _parse_config(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        return _stored_config(json.loads(text), path)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its configuration is not valid JSON") from error


def _stored_config(config: Any, path: Path) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise WeightsError(f"{path}: its configuration is not a mapping of fields")
    return {name: value for name, value in config.items() if name in stored_fields()}


def _checked_tensors(content: Mapping[Any, Any], path: Path) -> Tensors:
    """Checks that the content is floating-point tensors by name, and removes the prefix that DataParallel adds."""
    tensors = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise WeightsError(f"{path}: not a SeemoRe checkpoint: it holds more than named tensors")
        if not np.issubdtype(tensor.dtype, np.floating) and tensor.dtype.name != "bfloat16":
            raise WeightsError(f"{path}: {name} holds {tensor.dtype}, not floating-point numbers")
        plain_name = name.removeprefix("module.")
        if plain_name in tensors:
            raise WeightsError(f"{path}: holds {plain_name} twice, with and without the prefix module.")
        tensors[plain_name] = tensor
    return tensors


def _write_torch(path: Path, tensors: Tensors, config: SeemoReConfig) -> None:
    write_torch_file(path, tensors, {_CONFIG_ENTRY: config.to_dict()})


def _write_safetensors(path: Path, tensors: Tensors, config: SeemoReConfig) -> None:
    # Only one entry, because safetensors writes several in random order, and equal weights should give equal files.
    metadata = {_CONFIG_ENTRY: json.dumps(config.to_dict())}
    with atomic_write(path) as temporary:
        temporary.write_bytes(safetensors.numpy.save(tensors, metadata))


def _write_directory(path: Path, tensors: Tensors, config: SeemoReConfig) -> None:
    _write_safetensors(path / "model.safetensors", tensors, config)
    fields: Mapping[str, Any] = {"model_type": "seemore", **config.to_dict()}
    with atomic_write(path / "config.json") as temporary:
        temporary.write_text(json.dumps(fields, indent=2) + "\n")


def _write_card(path: Path, tensors: Tensors, config: SeemoReConfig, license: str) -> None:
    parameters = sum(tensor.size for tensor in tensors.values())
    with atomic_write(path) as temporary:
        temporary.write_text(model_card(config, parameters, license), encoding="utf-8")
