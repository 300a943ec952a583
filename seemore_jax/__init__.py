"""SeemoRe image super-resolution (ICML 2024) in JAX and Flax NNX.

import seemore_jax as sj

model = sj.load()  # SeemoRe-T ×4; or sj.load("model.pth")
sr = sj.upscale(model, image)
"""

from seemore_jax.data.imresize import imresize
from seemore_jax.evaluation import metrics
from seemore_jax.inference import upscale
from seemore_jax.network import Routing, SeemoRe, SeemoReConfig
from seemore_jax.porting import WeightsError, load, save
from seemore_jax.system.errors import InputError
from seemore_jax.version import __version__

__all__ = [
    "InputError",
    "Routing",
    "SeemoRe",
    "SeemoReConfig",
    "WeightsError",
    "__version__",
    "imresize",
    "load",
    "metrics",
    "save",
    "upscale",
]
