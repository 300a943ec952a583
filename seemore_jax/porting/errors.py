"""The exception for weights that cannot be used."""

from seemore_jax.system.errors import InputError


class WeightsError(InputError):
    """An error about weights that cannot be read, do not belong to a SeemoRe, or cannot be written."""
