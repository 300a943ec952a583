"""Random patches: where in an image a patch is, in which orientation, and how it is cut out of an LR/HR pair."""

import dataclasses
from typing import NamedTuple

import grain
import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.degradation import CLEAN, JpegDegradation
from seemore_jax.data.jpeg import compress
from seemore_jax.data.stored_pairs import StoredPair, decode_pair


class PatchPosition(NamedTuple):
    """The position of a patch in an image, and its orientation.

    Attributes:
      top: the first row, in LR pixels.
      left: the first column, in LR pixels.
      flip_x: whether the patch is mirrored left to right.
      flip_y: whether the patch is mirrored top to bottom, after `flip_x`.
      transpose: whether rows and columns are exchanged, after both flips.
    """

    top: int
    left: int
    flip_x: bool
    flip_y: bool
    transpose: bool


def draw_position(rng: np.random.Generator, height: int, width: int, patch_size: int) -> PatchPosition:
    """Draws a random position and orientation, all with the same probability.

    Args:
      rng: the source of random numbers.
      height: the height of the LR image in pixels.
      width: the width of the LR image in pixels.
      patch_size: the side of an LR patch in pixels. If the image is smaller, the patch begins at row or column 0.

    Returns:
      The position and the orientation of the patch.
    """
    top, left = (int(rng.integers(max(side - patch_size, 0) + 1)) for side in (height, width))
    flip_x, flip_y, transpose = (bool(bit) for bit in rng.integers(2, size=3))
    return PatchPosition(top, left, flip_x, flip_y, transpose)


def crop(image: UInt8[np.ndarray, "h w 3"], top: int, left: int, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """Crops a square out of an image. If the image is too small, it is extended by mirroring at the bottom and right.

    Args:
      image: uint8, (H, W, 3).
      top: the first row.
      left: the first column.
      side: the side of the square in pixels.

    Returns:
      uint8, (side, side, 3); a view of `image` where nothing has to be extended.
    """
    part = image[top : top + side, left : left + side]
    missing = [(0, side - length) for length in part.shape[:2]]
    return np.pad(part, [*missing, (0, 0)], mode="symmetric") if any(sum(pair) for pair in missing) else part


def orient(
    image: UInt8[np.ndarray, "h w 3"], flip_x: bool, flip_y: bool, transpose: bool
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Brings an image into one of the eight orientations.

    Args:
      image: uint8, (H, W, 3).
      flip_x: whether to mirror left to right.
      flip_y: whether to mirror top to bottom, after `flip_x`.
      transpose: whether to exchange rows and columns, after both flips.

    Returns:
      A view of `image`, (H, W, 3) or, transposed, (W, H, 3).
    """
    if flip_x:
        image = image[:, ::-1]
    if flip_y:
        image = image[::-1]
    return image.swapaxes(0, 1) if transpose else image


@dataclasses.dataclass(frozen=True)
class RandomPatch(grain.transforms.RandomMap):
    """A transformation that cuts a random patch, in a random orientation, out of a stored pair.

    Attributes:
      scale: the factor between the sides of HR and of LR.
      patch_size: the side of an LR patch in pixels.
      degradation: the JPEG compression of LR patches; None leaves them as they are.
    """

    scale: int
    patch_size: int
    degradation: JpegDegradation | None = None

    def random_map(self, element: StoredPair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Decodes a pair and cuts the patches.

        Args:
          element: the stored pair.
          rng: the source of random numbers.

        Returns:
          LR (p, p, 3) and HR (scale·p, scale·p, 3) with p = `patch_size`, uint8.

        Raises:
          InputError: an image is damaged, or the pair is of another scale.
        """
        lr, hr = decode_pair(element, self.scale)
        position = draw_position(rng, lr.shape[0], lr.shape[1], self.patch_size)
        lr = crop(lr, position.top, position.left, self.patch_size)
        hr = crop(hr, position.top * self.scale, position.left * self.scale, self.patch_size * self.scale)
        orientation = position.flip_x, position.flip_y, position.transpose
        lr, hr = orient(lr, *orientation), orient(hr, *orientation)
        if self.degradation:
            quality, subsampling = self.degradation.draw(rng)
            if quality != CLEAN:
                lr = compress(np.ascontiguousarray(lr), quality, subsampling)
        return lr, hr
