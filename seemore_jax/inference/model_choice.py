"""Choice of the bundled weights for an image file.

Weights that were trained with clean images sharpen the 8×8 blocks of JPEG files. So a JPEG file of low quality gets
weights that were trained with JPEG files, where the package has them for the scale.
"""

from pathlib import Path
from typing import NamedTuple

from seemore_jax.data.jpeg import quality_of_file
from seemore_jax.porting.bundled import BUNDLED

# JPEG files up to this quality get the weights that were trained with JPEG files. `benchmarks.jpeg` measured where both
# weights have the same PSNR on Kodak: at a quality of 91 at ×2, and of 91 to 92 at ×4.
HIGHEST_ROBUST_QUALITY = 91


class ModelChoice(NamedTuple):
    """Bundled weights for a file.

    Attributes:
      model: name of the weights, such as "T-x4-jpeg".
      reason: why these weights, in a few words that follow the name, such as "for a JPEG file of quality 75".
    """

    model: str
    reason: str


def choose_model(path: Path, scale: int) -> ModelChoice:
    """Chooses the bundled weights for an image file, by the quality that its JPEG quantization tables show.

    Args:
      path: the file. A file that is no JPEG file or cannot be read gets the weights for clean images.
      scale: factor of the upscaling, 2, 3 or 4.
    """
    return choose_by_quality(quality_of_file(path), scale)


def choose_by_quality(quality: int | None, scale: int) -> ModelChoice:
    """Chooses the bundled weights for an image that was stored as JPEG.

    Args:
      quality: quality of the JPEG file, 1 to 100; None for an image without JPEG compression.
      scale: factor of the upscaling, 2, 3 or 4.
    """
    clean, robust = f"T-x{scale}", f"T-x{scale}-jpeg"
    if quality is None:
        return ModelChoice(clean, "for a file without JPEG compression")
    if quality > HIGHEST_ROBUST_QUALITY:
        return ModelChoice(clean, f"for a JPEG file of high quality ({quality})")
    if not (BUNDLED / f"{robust}.safetensors").is_file():
        return ModelChoice(clean, f"for a JPEG file of quality {quality}; at ×{scale}, there are no weights for JPEG")
    return ModelChoice(robust, f"for a JPEG file of quality {quality}")
