"""Feature maps of a whole image in the memory of the host, for the computation of an image in strips."""

import mmap
import os
import tempfile

import jax
import numpy as np
from jaxtyping import Num

from seemore_jax.system.errors import InputError


class FeatureMap:
    """Feature map of the whole image, whose rows are read and written strip by strip.

    New rows replace old ones in the same memory. A sweep from the top to the bottom writes them `margin` rows before
    the old ones, so that they do not overwrite the neighbouring rows that the next strip reads. The next sweep goes
    from the bottom to the top and writes them `margin` rows behind.

    Args:
      height: number of rows of the image.
      window: shape (1, rows, …) and type of the window that is read for one strip.
      margin: largest number of rows on each side of a strip that are read for it.
      in_file: whether to keep the map in a temporary file instead of in memory.

    Raises:
      InputError: there is no room for the temporary file.
    """

    def __init__(self, height: int, window: jax.ShapeDtypeStruct, margin: int, in_file: bool) -> None:
        self._window_rows = window.shape[1]
        dtype = np.dtype(window.dtype)
        # The last window extends beyond the image. Pages of memory that are never accessed take no memory.
        shape = (height + self._window_rows + 2 * margin, *window.shape[2:])
        size = int(np.prod(shape)) * dtype.itemsize
        memory = _temporary_file(size) if in_file else _memory(size)  # freed with the last array
        self._rows = np.frombuffer(memory, dtype).reshape(shape)
        self._offset, self._next = 0, margin

    @property
    def downwards(self) -> bool:
        """Whether this sweep must write the strips from the top of the image to the bottom."""
        return self._next < self._offset

    def window(self, first: int) -> np.ndarray:
        """Returns the window of the old rows from a row on, as a view.

        JAX on a CPU does not copy an aligned view either.

        Args:
          first: index, in the image, of the window's first row.
        """
        begin = self._offset + first
        return self._rows[None, begin : begin + self._window_rows]

    def write(self, begin: int, rows: Num[np.ndarray, "rows ..."]) -> None:
        """Writes new rows.

        Args:
          begin: index, in the image, of the first row.
          rows: new rows.
        """
        begin += self._next
        self._rows[begin : begin + len(rows)] = rows

    def end_sweep(self) -> None:
        """Ends a sweep: the new rows become the old rows of the next sweep."""
        self._offset, self._next = self._next, self._offset


def _memory(size: int) -> mmap.mmap:
    """Returns zeros in private memory, because shared memory cannot have huge pages."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)  # fewer page faults
    return memory


def _temporary_file(size: int) -> mmap.mmap:
    """Returns a memory map of a file that is already deleted, so that it disappears with the process."""
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # if the disk became full later, the process would crash
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise InputError(
            f"{tempfile.gettempdir()}: no room for a feature map of {size / 1e9:.1f} GB ({error.strerror}); "
            "set TMPDIR to a folder that has it"
        ) from error
