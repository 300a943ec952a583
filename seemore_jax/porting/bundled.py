"""Where the bundled weights are, and which of them are the default."""

from pathlib import Path

BUNDLED = Path(__file__).parents[1] / "weights"
DEFAULT_SCALE = 4
DEFAULT_MODEL = f"T-x{DEFAULT_SCALE}"
