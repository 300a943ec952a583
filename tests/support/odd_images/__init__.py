"""Makes damaged and odd image files from a seed, each with the pixels that a reader may find in it.

The pixels are known because each file is encoded from them, by the PNG writer in `encoders`, by Pillow or by tifffile.
For lossy formats and damaged files they are what decoders return that seemore_jax does not use for that format.

`odd_images` and `good_images` make the files. The modules are: `files` (what a file is), `encoders` (how bytes are
made), and one module for each group of oddities: `damaged`, `formats`, `metadata`, `traps` and `places`.
"""

import itertools
import random

import numpy as np

from tests.support.odd_images.damaged import damaged
from tests.support.odd_images.files import Odd, sound_samples
from tests.support.odd_images.formats import color_models, several_images, sizes, tiff_kinds, wrong_suffixes
from tests.support.odd_images.metadata import orientations, profiles
from tests.support.odd_images.places import file_system, names
from tests.support.odd_images.traps import bombs, false_sizes, not_images

__all__ = ["Odd", "good_images", "odd_images"]


def odd_images(count: int, seed: int, bomb_megabytes: int = 3000) -> list[Odd]:
    """Makes different odd files: all kinds in turn, and then damaged ones up to the count.

    If there are more odd files than `count`, a random choice of each kind is taken.

    Args:
      count: the number of files.
      seed: determines the content of the files, and which of them are taken.
      bomb_megabytes: the size to which the compressed data of the decompression bombs unpack.
    """
    rng = np.random.default_rng(seed)
    samples = sound_samples(rng)
    # The order decides which random numbers each kind gets.
    kinds = [
        *(not_images(rng), wrong_suffixes(samples), color_models(rng), sizes(rng), several_images(rng)),
        *(false_sizes(samples), bombs(rng, bomb_megabytes), orientations(samples), profiles(samples), tiff_kinds(rng)),
        *(names(samples), file_system(samples)),
    ]
    special = [list(kind) for kind in kinds]
    if count < sum(map(len, special)):
        mixed = random.Random(seed)
        special = [mixed.sample(kind, len(kind)) for kind in special]
    in_turn = [odd for row in itertools.zip_longest(*special) for odd in row if odd is not None]
    damaged_count = max(count // 2, count - len(in_turn))
    return [*in_turn[: count - damaged_count], *itertools.islice(damaged(rng, samples), damaged_count)]


def good_images(seed: int) -> list[Odd]:
    """Makes sound files of common kinds, which have to be upscaled whatever lies beside them."""
    samples = sound_samples(np.random.default_rng(seed + 1))
    return [
        Odd("sound", f"good_{name}{sample.suffix}", sample.data, (sample.pixels,)) for name, sample in samples.items()
    ]
