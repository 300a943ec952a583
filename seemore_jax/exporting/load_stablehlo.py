"""Loads a network that `python -m seemore_jax export` wrote to a `.stablehlo` file.

This file does not import seemore-jax, so it can be copied to where the network is used. It needs
`pip install jax flatbuffers`; `jax.export` reads files with flatbuffers.

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

# The bytes between the program and its checksum. JAX has no check of its own: with a changed byte, it would run another
# network.
CHECKSUM_PREFIX = b"seemore-jax stablehlo sha256 "
_DIGEST_SIZE = hashlib.sha256().digest_size


def add_checksum(program: bytes) -> bytes:
    """Returns the content of a `.stablehlo` file.

    Args:
      program: the program, as `jax.export` serializes it.

    Returns:
      The program, followed by its checksum.
    """
    return program + CHECKSUM_PREFIX + hashlib.sha256(program).digest()


def load_stablehlo(path: str | os.PathLike[str]) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Loads a network from a `.stablehlo` file.

    The network runs on a CPU, a CUDA GPU or a TPU, whichever JAX finds. It is compiled on the first call with each
    shape.

    Args:
      path: the file.

    Returns:
      A function from LR images, float32 (N, H, W, 3), RGB in [0, 1], with any N, H and W from 1, to SR images
      (N, scale·H, scale·W, 3), nominally in [0, 1] but not clipped.

    Raises:
      ValueError: the file is damaged, was not written by this export, or cannot be read by this version of JAX.
      OSError: the file cannot be opened.
      ImportError: flatbuffers is not installed.
    """
    content = Path(path).read_bytes()
    body, digest = content[:-_DIGEST_SIZE], content[-_DIGEST_SIZE:]
    program = body.removesuffix(CHECKSUM_PREFIX)
    if not body.endswith(CHECKSUM_PREFIX) or hashlib.sha256(program).digest() != digest:
        raise ValueError(f"{path}: damaged, or not a file of seemore_jax export; export the network again")
    try:
        exported = jax.export.deserialize(bytearray(program))
    except ImportError:
        raise  # the message names the missing package, flatbuffers
    except Exception as error:  # the file is intact, so it is of another version; JAX has no exception for this
        raise ValueError(
            f"{path}: JAX {jax.__version__} cannot read it ({error}); export it with this version"
        ) from error
    return jax.jit(exported.call)
