"""What a long upscaling tells while it goes on."""

import logging
from collections.abc import Callable
from typing import NamedTuple

_LOG = logging.getLogger(__name__)


class Callbacks(NamedTuple):
    """Functions that are called while an image is upscaled.

    Attributes:
      progress: with the share of the work that is done, from 0 to 1; only for images that take several steps.
      note: with a line on what the user should know, such as a choice of experts that is nearly a tie.
    """

    progress: Callable[[float], None] = lambda share: None
    note: Callable[[str], None] = _LOG.warning

    def part(self, number: int, count: int) -> "Callbacks":
        """For one of several equal parts of the work."""
        return Callbacks(lambda share: self.progress((number + share) / count), self.note)
