"""The models that visitors choose from, and which one upscales a file."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seemore_jax.inference.model_choice import choose_model
from seemore_jax.network import SeemoRe
from seemore_jax.porting import load
from seemore_jax.porting.bundled import BUNDLED, DEFAULT_MODEL


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The model for one file.

    Attributes:
      model: the model.
      name: its name, as in `seemore-jax models`.
      reason: why it was chosen, as the end of a sentence that begins with its name.
    """

    model: SeemoRe
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Choices:
    """What visitors choose from.

    Attributes:
      bundled: the bundled models by their name.
      given: the models that the operator added, by their name.
      first: the label of the choice that is selected at first.
    """

    bundled: Mapping[str, SeemoRe]
    given: Mapping[str, SeemoRe]
    first: str

    def scales(self) -> dict[str, int]:
        """Returns the scale of each choice by its label, such as "×4"."""
        given = {_label(model, name): model.config.scale for name, model in self.given.items()}
        scales = sorted({model.config.scale for model in self.bundled.values()})
        return {f"×{scale}": scale for scale in scales} | given

    def choose(self, label: str, path: Path) -> Chosen:
        """Returns the model for a file. If the visitor chose only a scale, the file chooses between the bundled models.

        Args:
          label: what the visitor chose, one of `scales`.
          path: the file.
        """
        for name, model in self.given.items():
            if label == _label(model, name):
                return Chosen(model, name, "you chose it")
        choice = choose_model(path, self.scales()[label])
        return Chosen(self.bundled[choice.model], choice.model, choice.reason)


def _label(model: SeemoRe, name: str) -> str:
    return f"×{model.config.scale} with {name}"


def load_choices(names: Sequence[str], **overrides: Any) -> Choices:
    """Loads the bundled models, and more models.

    Args:
      names: the sources of the other models, as `load` takes them. The first one is selected at first.
      **overrides: fields of `SeemoReConfig` for the other models; see `load`.

    Returns:
      The models.

    Raises:
      WeightsError: a model cannot be loaded.
    """
    bundled = {path.stem: load(path.stem) for path in BUNDLED.glob("*.safetensors")}
    given = {Path(name).name: load(name, **overrides) for name in names if name not in bundled}
    first = names[0] if names else DEFAULT_MODEL
    label = f"×{bundled[first].config.scale}" if first in bundled else _label(given[Path(first).name], Path(first).name)
    return Choices(bundled, given, label)
