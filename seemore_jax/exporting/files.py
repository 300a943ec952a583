"""The file of an export, in the format that its suffix names.

| suffix       | runs in                     | layout | needs                 |
|--------------|-----------------------------|--------|-----------------------|
| `.stablehlo` | JAX, by `load_stablehlo.py` | NHWC   | the extra `stablehlo` |
| `.onnx`      | ONNX Runtime and others     | NCHW   | the extra `onnx`      |

Both compute what the model computes, routing included, on float32 RGB images of any batch and any size from 1×1.
"""

import importlib.util
import os
from pathlib import Path

from seemore_jax.network import SeemoRe
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write

# The package that writes a format, and the extra that installs it.
_NEEDS = {".stablehlo": ("flatbuffers", "stablehlo"), ".onnx": ("onnx", "onnx")}


def export(model: SeemoRe, path: str | os.PathLike[str]) -> None:
    """Writes the network, weights included, to a `.stablehlo` or `.onnx` file.

    A file is replaced only once the new one is complete.

    Raises:
      InputError: the suffix is another, a package is missing, or the path cannot be written.
    """
    path = Path(path)
    check_target(path)
    if path.suffix.lower() == ".onnx":
        from seemore_jax.exporting.onnx_graph import to_onnx  # its package may be missing

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
    """Raises InputError if `export` could not write the format of `path`."""
    suffix = Path(path).suffix.lower()
    if suffix not in _NEEDS:
        raise InputError(f"{path}: not a format of exports; use {' or '.join(_NEEDS)}")
    package, extra = _NEEDS[suffix]
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{path}: needs the package {package}: pip install 'seemore-jax[{extra}]'")
