"""Where the bundled weights are, and which of them are the default.

The folder `earlier` has weights that newer ones have replaced, under their name and the first 8 digits of their
SHA-256, such as `T-x4-4de4d786`. Each stays for one minor version. That one is still the same as `T-x4`, which has not
been replaced yet.
"""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
EARLIER = "earlier"
DEFAULT_SCALE = 4
DEFAULT_MODEL = f"T-x{DEFAULT_SCALE}"
