"""Evaluates an upscaler on benchmark sets, and bicubic upscaling for comparison."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.imresize import imresize
from seemore_jax.evaluation.metrics import psnr, ssim
from seemore_jax.system.errors import InputError

# The name of the baseline in command-line options and tables.
BICUBIC = "bicubic"

# A function from LR (H, W, 3) to SR (scale·H, scale·W, 3), both uint8.
Upscaler = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "sh sw 3"]]


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one image, or the mean scores of several images.

    Attributes:
      psnr: the PSNR in dB.
      ssim: the SSIM, from -1 to 1.
    """

    psnr: float
    ssim: float

    @classmethod
    def of(cls, sr: UInt8[np.ndarray, "h w 3"], hr: UInt8[np.ndarray, "h w 3"], scale: int) -> "Scores":
        """Computes the scores of one image by the protocol of the literature: luma, `scale` pixels shaved at each side.

        Args:
          sr: the SR image, uint8, (H, W, 3).
          hr: the HR image, of the same shape.
          scale: the factor of the upscaling.

        Returns:
          PSNR and SSIM of the image.

        Raises:
          InputError: the shapes differ, or the image is too small.
        """
        return cls(psnr(sr, hr, shave=scale), ssim(sr, hr, shave=scale))

    @classmethod
    def mean(cls, scores: "list[Scores]") -> "Scores":
        """Computes the mean scores.

        Args:
          scores: the scores of the images, at least one.

        Returns:
          The mean PSNR and the mean SSIM.
        """
        return cls(float(np.mean([s.psnr for s in scores])), float(np.mean([s.ssim for s in scores])))


@dataclasses.dataclass(frozen=True)
class EvaluatedImage:
    """An image of a set, its two upscaled versions, and their scores.

    Attributes:
      name: the name of the image.
      hr: the HR image, uint8 (H, W, 3).
      bicubic: the bicubic upscaling of LR, of the same shape.
      sr: the image from the upscaler, of the same shape.
      scores: the scores of `sr`.
      bicubic_scores: the scores of `bicubic`.
    """

    name: str
    hr: UInt8[np.ndarray, "h w 3"]
    bicubic: UInt8[np.ndarray, "h w 3"]
    sr: UInt8[np.ndarray, "h w 3"]
    scores: Scores
    bicubic_scores: Scores


def bicubic_upscaler(scale: int) -> Upscaler:
    """Returns the baseline: MATLAB's bicubic upscaling.

    Args:
      scale: the factor of the upscaling.
    """
    return lambda lr: imresize(lr, scale)


def evaluate_image(pair: ImagePair, scale: int, upscaler: Upscaler) -> EvaluatedImage:
    """Evaluates an upscaler on one image.

    Args:
      pair: the HR image, and the LR image if there is one.
      scale: the factor between the sides of HR and of LR.
      upscaler: the function that upscales LR.

    Returns:
      The images and their scores.

    Raises:
      InputError: the image cannot be read, or is too small for the metrics. The message names the image.
    """
    lr, hr = pair.read(scale)
    bicubic, sr = bicubic_upscaler(scale)(lr), upscaler(lr)
    try:
        scores, bicubic_scores = Scores.of(sr, hr, scale), Scores.of(bicubic, hr, scale)
    except InputError as error:
        raise InputError(f"{pair.hr}: {error}") from error
    return EvaluatedImage(pair.name, hr, bicubic, sr, scores, bicubic_scores)


def evaluate_images(pairs: tuple[ImagePair, ...], scale: int, upscaler: Upscaler) -> Iterator[EvaluatedImage]:
    """Evaluates an upscaler on images, one after the other.

    Args:
      pairs: the images.
      scale: the factor between the sides of HR and of LR.
      upscaler: the function that upscales LR.

    Raises:
      InputError: see `evaluate_image`.
    """
    return (evaluate_image(pair, scale, upscaler) for pair in pairs)
