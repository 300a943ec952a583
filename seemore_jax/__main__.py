"""`python -m seemore_jax`."""

import gc
import sys

gc.disable()  # what is imported stays: to search it for garbage is a fifth of the time that imports take
from seemore_jax.command_line import main  # noqa: E402

gc.freeze()
gc.enable()
sys.exit(main())
