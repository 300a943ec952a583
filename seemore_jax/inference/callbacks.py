"""Functions that report the progress of an upscaling."""

import logging
from collections.abc import Callable
from typing import NamedTuple

_LOG = logging.getLogger(__name__)


class Callbacks(NamedTuple):
    """Functions that are called while an image is upscaled.

    Attributes:
      progress: called with the fraction of the work that is done, from 0 to 1. Images that are computed in one step do
        not call it.
      note: called with a message of one line for the user, for example about a near tie between two experts.
    """

    progress: Callable[[float], None] = lambda fraction: None
    note: Callable[[str], None] = _LOG.warning

    def part(self, number: int, count: int) -> "Callbacks":
        """Returns the callbacks for one of several equal parts of the work.

        Args:
          number: index of the part, from 0 to `count` − 1.
          count: number of parts.
        """
        return self.span(number / count, (number + 1) / count)

    def span(self, begin: float, end: float) -> "Callbacks":
        """Returns the callbacks for a part of the work.

        Args:
          begin, end: fractions of the work at which the part begins and ends.
        """
        return Callbacks(lambda fraction: self.progress(begin + (end - begin) * fraction), self.note)
