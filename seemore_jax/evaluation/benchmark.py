"""Evaluation of an upscaler on benchmark sets, beside bicubic."""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8

from seemore_jax.data.image_pairs import ImagePair
from seemore_jax.data.imresize import imresize
from seemore_jax.evaluation.metrics import psnr, ssim
from seemore_jax.system.errors import InputError

# The baseline's name, as an argument and in tables.
BICUBIC = "bicubic"

# LR (H, W, 3) to SR (s·H, s·W, 3), uint8.
Upscaler = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "sh sw 3"]]


@dataclasses.dataclass(frozen=True)
class Scores:
    """PSNR in dB, and SSIM; of one image, or means over several."""

    psnr: float
    ssim: float

    @classmethod
    def of(cls, sr: UInt8[np.ndarray, "h w 3"], hr: UInt8[np.ndarray, "h w 3"], scale: int) -> "Scores":
        """By the protocol of the literature: luma, `scale` pixels shaved off each side."""
        return cls(psnr(sr, hr, shave=scale), ssim(sr, hr, shave=scale))

    @classmethod
    def mean(cls, scores: "list[Scores]") -> "Scores":
        """The mean of each figure."""
        return cls(float(np.mean([s.psnr for s in scores])), float(np.mean([s.ssim for s in scores])))


@dataclasses.dataclass(frozen=True)
class EvaluatedImage:
    """One image of a set in its three versions (uint8 RGB), and how near two of them come to the first."""

    name: str
    hr: UInt8[np.ndarray, "h w 3"]
    bicubic: UInt8[np.ndarray, "h w 3"]
    sr: UInt8[np.ndarray, "h w 3"]
    scores: Scores
    bicubic_scores: Scores


def bicubic_upscaler(scale: int) -> Upscaler:
    """The baseline: MATLAB's bicubic enlargement."""
    return lambda lr: imresize(lr, scale)


def evaluate_image(pair: ImagePair, scale: int, upscaler: Upscaler) -> EvaluatedImage:
    """Evaluates one image.

    Raises:
      InputError: it cannot be read or is too small to be measured; the message names it.
    """
    lr, hr = pair.read(scale)
    bicubic, sr = bicubic_upscaler(scale)(lr), upscaler(lr)
    try:
        scores, bicubic_scores = Scores.of(sr, hr, scale), Scores.of(bicubic, hr, scale)
    except InputError as error:
        raise InputError(f"{pair.hr}: {error}") from error
    return EvaluatedImage(pair.name, hr, bicubic, sr, scores, bicubic_scores)


def evaluate_images(pairs: tuple[ImagePair, ...], scale: int, upscaler: Upscaler) -> Iterator[EvaluatedImage]:
    """Evaluates one image after the other; raises as `evaluate_image`."""
    return (evaluate_image(pair, scale, upscaler) for pair in pairs)
