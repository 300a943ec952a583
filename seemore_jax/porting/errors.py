"""What goes wrong with weights."""

from seemore_jax.system.errors import InputError


class WeightsError(InputError):
    """Weights that cannot be read, do not describe a SeemoRe, or cannot be written."""
