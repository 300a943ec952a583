"""SeemoRe image super-resolution (ICML 2024) in JAX and Flax NNX.

import seemore_jax as sj

model = sj.load()  # SeemoRe-T ×4; or sj.load("model.pth")
sr = sj.upscale(model, image)
"""

from typing import TYPE_CHECKING

from seemore_jax.system.lazy_imports import lazy_names
from seemore_jax.version import __version__

if TYPE_CHECKING:
    from seemore_jax.data.imresize import imresize
    from seemore_jax.evaluation import metrics
    from seemore_jax.inference import upscale
    from seemore_jax.network import Routing, SeemoRe, SeemoReConfig
    from seemore_jax.porting import WeightsError, load, save
    from seemore_jax.system.errors import InputError
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "InputError": "seemore_jax.system.errors",
            "Routing": "seemore_jax.network",
            "SeemoRe": "seemore_jax.network",
            "SeemoReConfig": "seemore_jax.network",
            "WeightsError": "seemore_jax.porting",
            "imresize": "seemore_jax.data.imresize",
            "load": "seemore_jax.porting",
            "metrics": "seemore_jax.evaluation",
            "save": "seemore_jax.porting",
            "upscale": "seemore_jax.inference",
        },
    )

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
