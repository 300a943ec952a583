"""Announces results that take long and much memory, before they are made."""

from seemore_jax.inference.runner import expected_memory
from seemore_jax.inference.ticking import Speed, work_of
from seemore_jax.network import SeemoReConfig

# Results with more pixels are announced.
LARGE_RESULT = 10**8
_LONG = 90  # from so many seconds on, times are given in minutes


def announcement(config: SeemoReConfig, size: tuple[int, int], factor: float, images: int, speed: Speed) -> str | None:
    """Says how large a result will be, how much memory it takes and, if that is known, how long.

    Args:
      config: configuration of the network.
      size: height and width of an image in LR pixels.
      factor: factor of the result.
      images: number of images of one file.
      speed: how fast the network has been so far.

    Returns:
      One line without a name; None if the result is not large.
    """
    height, width = (round(side * factor) for side in size)
    pixels = images * height * width
    if pixels <= LARGE_RESULT:
        return None
    what = f"{images} images of {width}×{height}" if images > 1 else f"{width}×{height}"
    line = f"the result has {pixels / 1e6:.0f} megapixels ({what}); making it takes about "
    if speed.is_measured:
        line += f"{_duration(images * speed.seconds(work_of(config, *size)))} and "
    return f"{line}{expected_memory(config, *size) / 1e9:.1f} GB of memory"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < _LONG else f"{seconds / 60:.0f} minutes"
