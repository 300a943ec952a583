"""The base class of the builders: their features, their configurations, and the writing of tiles."""

import concurrent.futures
import functools
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from seemore_jax.data.datasets.pairs import TrainingPair
from seemore_jax.data.tiles import cut_tiles

SCALES = (2, 3, 4)

# TFDS keeps the tiles of one file in memory while it writes them: about 300 MB for 2K photographs.
_IMAGES_PER_FILE = 16
# No compression: this takes 1.7 times the disk space, but a tenth of the time to decode, and decoding limits how fast a
# run gets its patches.
_PNG_LEVEL = 0

_Example = tuple[str, dict[str, bytes]]


class _UncompressedWriter(tfds.core.ExampleWriter):
    """Writes array_record files without compression; other formats as TFDS does.

    TFDS leaves array_record at its default, Zstandard. Uncompressed files take a fifth of the time to read, and reading
    limits how fast a run gets its patches.
    """

    def write(self, path: str | os.PathLike[str], examples: Iterable[tuple[Any, bytes]]) -> Any:
        if self.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            return super().write(path, examples)
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        try:
            for _, example in examples:
                writer.write(example)
        finally:
            writer.close()
        return None


# A shard-based builder, because the other builders of TFDS shuffle the examples, which needs TensorFlow for more than
# 1 GB.
class PairedImages(tfds.core.ShardBasedBuilder):
    """A training set of LR/HR tiles with one configuration for each scale: x2, x3 and x4.

    Attributes:
      pairs: the pairs to write; None writes all pairs that `find_pairs` returns.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=f"x{scale}", description=f"LR is 1/{scale} of HR") for scale in SCALES
    ]
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str]

    pairs: Sequence[TrainingPair] | None = None

    def __init_subclass__(cls) -> None:
        # Without registration, because `tfds.builder("div2k")` must still return the DIV2K of TFDS.
        super().__init_subclass__(skip_registration=True)

    @property
    def scale(self) -> int:
        """Returns the factor between the sides of HR and of LR."""
        return int(self.builder_config.name.removeprefix("x"))

    @abstractmethod
    def find_pairs(self, dl_manager: tfds.download.DownloadManager) -> list[TrainingPair]:
        """Finds the pairs of this set, without reading the images.

        Args:
          dl_manager: the download manager of TFDS.

        Returns:
          The pairs, sorted by name within each source.

        Raises:
          InputError: files that the user must provide are missing.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        image = functools.partial(tfds.features.Image, shape=(None, None, 3), dtype=np.uint8, encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict({"lr": image(), "hr": image()}),
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, list[Callable[[], Iterator[_Example]]]]:
        pairs = self.find_pairs(dl_manager) if self.pairs is None else self.pairs
        files = [pairs[first : first + _IMAGES_PER_FILE] for first in range(0, len(pairs), _IMAGES_PER_FILE)]
        progress = tqdm(desc=f"{self.name}/{self.builder_config.name}", total=len(pairs), unit="image")
        return {"train": [functools.partial(self._examples, file, progress) for file in files]}

    def _example_writer(self) -> tfds.core.ExampleWriter:
        return _UncompressedWriter(file_format=self.info.file_format)

    def _examples(self, pairs: Sequence[TrainingPair], progress: tqdm) -> Iterator[_Example]:
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for pair in pairs:
                lr, hr = pair.read(self.scale)
                tiles = cut_tiles(lr, hr, self.scale)
                for index, example in enumerate(threads.map(_encoded, tiles)):
                    yield f"{pair.name}-{index}", example
                progress.update()
        if progress.n == progress.total:
            progress.close()


def _encoded(tile: tuple[np.ndarray, np.ndarray]) -> dict[str, bytes]:
    # Without libpng, which filters the rows even without compression. Undoing the filters takes longer than the rest of
    # the decoding.
    lr, hr = (bytes(imagecodecs.spng_encode(np.ascontiguousarray(image), level=_PNG_LEVEL)) for image in tile)
    return {"lr": lr, "hr": hr}
