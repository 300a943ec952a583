"""Feature maps of a whole image, kept outside of the device while strips of the image are computed."""

import mmap
import os
import tempfile

import jax
import numpy as np
from jaxtyping import Num

from seemore_jax.system.errors import InputError


class FeatureMap:
    """A feature map of the whole image, of which strips are read and written in turn.

    New rows replace old ones in the same memory. On the way down the image, they are written `margin` rows before the
    old ones, so that the neighbouring rows that the next strip reads still exist; on the way up, `margin` rows behind.

    Args:
      height: rows of the image.
      window: shape (1, rows, …) and type of the window of the map that a strip reads.
      margin: the largest number of rows on each side that a strip reads.
      in_file: keep the map in a temporary file instead of in memory.

    Raises:
      InputError: there is no room for the temporary file.
    """

    def __init__(self, height: int, window: jax.ShapeDtypeStruct, margin: int, in_file: bool) -> None:
        self._window_rows = window.shape[1]
        dtype = np.dtype(window.dtype)
        # The last window reaches beyond the image. Pages that are never touched take no memory.
        shape = (height + self._window_rows + 2 * margin, *window.shape[2:])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = _temporary_file(size) if in_file else _memory(size)  # freed with the last array that refers to it
        self._rows = np.frombuffer(memory, dtype).reshape(shape)
        self._offset, self._next = 0, margin

    @property
    def downwards(self) -> bool:
        """Whether the strips have to be written from the top of the image to the bottom."""
        return self._next < self._offset

    def window(self, first: int) -> np.ndarray:
        """Returns the old rows from `first` on, without copying; JAX on a CPU does not copy aligned ones either."""
        begin = self._offset + first
        return self._rows[None, begin : begin + self._window_rows]

    def write(self, begin: int, rows: Num[np.ndarray, "rows ..."]) -> None:
        """Writes new rows, from row `begin` of the image on."""
        begin += self._next
        self._rows[begin : begin + len(rows)] = rows

    def end_sweep(self) -> None:
        """Ends a sweep: the new rows become the old ones."""
        self._offset, self._next = self._next, self._offset


def _memory(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared memory cannot have huge pages
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # fewer page faults
    return memory


def _temporary_file(size: int) -> mmap.mmap:
    """Maps a file that is already deleted, so that it disappears with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a disk that fills up later would kill the process
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no room for a feature map of {size / 1e9:.1f} GB ({error.strerror}); "
            "set TMPDIR to a folder that has it"
        ) from error
