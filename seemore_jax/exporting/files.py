"""Exports a network to a file in the format that the suffix names.

| suffix       | runs in                     | layout | needs                 |
|--------------|-----------------------------|--------|-----------------------|
| `.stablehlo` | JAX, by `load_stablehlo.py` | NHWC   | the extra `stablehlo` |
| `.onnx`      | ONNX Runtime and others     | NCHW   | the extra `onnx`      |

Both files compute what the model computes, including the routing, for float32 RGB images, batches of any length and
any image size from 1×1.
"""

import importlib.util
import os
from pathlib import Path

from seemore_jax.network import SeemoRe
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write

# For each format: the package that writes it, and the extra that installs the package.
_NEEDS = {".stablehlo": ("flatbuffers", "stablehlo"), ".onnx": ("onnx", "onnx")}


def export(model: SeemoRe, path: str | os.PathLike[str]) -> None:
    """Writes a network with its weights to a `.stablehlo` or `.onnx` file.

    An existing file is replaced only when the new one is complete.

    Args:
      model: the network.
      path: the file, with the suffix `.stablehlo` or `.onnx`.

    Raises:
      InputError: the path has another suffix, a package is missing, or the file cannot be written.
    """
    path = Path(path)
    check_target(path)
    if path.suffix.lower() == ".onnx":
        from seemore_jax.exporting.onnx_graph import to_onnx  # the package onnx may be missing

        content = to_onnx(model).SerializeToString()
    else:
        from seemore_jax.exporting.stablehlo import to_stablehlo

        content = to_stablehlo(model)
    try:
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


def check_target(path: str | os.PathLike[str]) -> None:
    """Checks that `export` can write the format of a path, before the network is computed.

    Args:
      path: the file that is to be written.

    Raises:
      InputError: the suffix is unknown, or a package is missing.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _NEEDS:
        raise InputError(f"{path}: unknown export format; use {' or '.join(_NEEDS)}")
    package, extra = _NEEDS[suffix]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{path}: needs the package {package}: pip install 'seemore-jax[{extra}]'")
