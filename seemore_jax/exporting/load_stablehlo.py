"""Loads a network that `python -m seemore_jax export` wrote to a `.stablehlo` file.

This file imports nothing of seemore-jax: copy it. It needs `pip install jax flatbuffers` (the latter is what
`jax.export` reads files with).

    upscale = load_stablehlo("network.stablehlo")
    sr = upscale(lr)  # float32 (N, H, W, 3), RGB in [0, 1] → (N, sH, sW, 3), nominally in [0, 1] but not clipped
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import jax
import jax.export
import jax.typing

# What follows JAX's own data, so that damage shows: without a check, a changed byte is another network.
CHECKSUM_PREFIX = b"seemore-jax stablehlo sha256 "
_DIGEST_SIZE = hashlib.sha256().digest_size


def add_checksum(program: bytes) -> bytes:
    """The content of a file: the program, as `jax.export` serializes it, and its checksum."""
    return program + CHECKSUM_PREFIX + hashlib.sha256(program).digest()


def load_stablehlo(path: str | os.PathLike[str]) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Returns the network: a function of float32 images (N, H, W, 3), of any batch and any size from 1×1.

    It runs on a CPU, a CUDA GPU or a TPU, whichever JAX finds, and is compiled on the first call with each shape.

    Raises:
      ValueError: the file is damaged, is none of these, or cannot be read by this version of JAX.
      OSError: it cannot be opened.
    """
    content = Path(path).read_bytes()
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    program = body.removesuffix(CHECKSUM_PREFIX)
    if not body.endswith(CHECKSUM_PREFIX) or hashlib.sha256(program).digest() != digest:
        raise ValueError(f"{path}: damaged, or not a file of seemore_jax export; export the network again")
    try:
        exported = jax.export.deserialize(bytearray(program))
    except ImportError:
        raise  # of flatbuffers; the message says so
    except Exception as error:  # an intact file, so another version's: JAX has no exception for that
        raise ValueError(
            f"{path}: JAX {jax.__version__} cannot read it ({error}); export it with this version"
        ) from error
    return jax.jit(exported.call)
