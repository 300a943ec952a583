"""Choice of the bundled weights for an image file.

Weights that were trained with clean images sharpen the 8×8 blocks of JPEG files. So a JPEG file of low quality gets
weights that were trained with JPEG files, where the package has them for the scale.
"""

from pathlib import Path
from typing import NamedTuple

from seemore_jax.data.jpeg import quality_of_file
from seemore_jax.porting.bundled import BUNDLED

# JPEG files up to this quality get the weights that were trained with JPEG files: in docs/upscaling.md, they have the
# higher PSNR up to here at both scales.
HIGHEST_ROBUST_QUALITY = 95


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
    clean, robust = f"T-x{scale}", f"T-x{scale}-jpeg"
    quality = quality_of_file(path)
    if quality is None:
        return ModelChoice(clean, "for a file without JPEG compression")
    if quality > HIGHEST_ROBUST_QUALITY:
        return ModelChoice(clean, f"for a JPEG file of high quality ({quality})")
    if not (BUNDLED / f"{robust}.safetensors").is_file():
        return ModelChoice(clean, f"for a JPEG file of quality {quality}; at ×{scale}, there are no weights for JPEG")
    return ModelChoice(robust, f"for a JPEG file of quality {quality}")
