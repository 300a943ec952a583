"""`python -m seemore_jax`."""

import sys

from seemore_jax.command_line import main

sys.exit(main())
