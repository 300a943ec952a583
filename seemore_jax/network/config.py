"""Hyperparameters of SeemoRe, and the nine configurations of the release."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from seemore_jax.system.errors import InputError

# Rank of the expert with index i, for each `lr_space` (paper, section 3.3).
RANK_OF_EXPERT: dict[str, Callable[[int], int]] = {
    "exp": lambda i: 2 ** (i + 1),
    "linear": lambda i: i + 2,
    "double": lambda i: 2 * i + 2,
}

_VARIANTS: dict[str, dict[str, Any]] = {
    "T": {"embedding_dim": 36, "num_layers": 6, "use_shuffle": True, "recursive": 2},
    "B": {"embedding_dim": 48, "num_layers": 8, "use_shuffle": True, "recursive": 2},
    "L": {"embedding_dim": 48, "num_layers": 16, "use_shuffle": False, "recursive": 1},
}
VARIANTS = tuple(_VARIANTS)
SCALES = (2, 3, 4)
# Fields that do not influence the shape of any parameter, so that weights alone do not tell them.
NOT_IN_SHAPES = ("use_shuffle", "recursive", "topk", "img_range")

# Images are padded to at least 4**recursive pixels per side. With a larger value, a small image would need gigabytes.
_MAX_RECURSIVE = 5
_COMPUTE_DTYPES = ("float32", "bfloat16")
_PRECISIONS = ("default", "high", "highest")
_IMPLEMENTATIONS = ("auto", "plain", "cpu", "tpu", "gpu")


@dataclasses.dataclass(frozen=True)
class SeemoReConfig:
    """Hyperparameters of the network, under the names of the release, and options of its computation.

    The last four attributes are options of the computation. They do not depend on the weights, and no file stores them.

    Attributes:
      scale: upscaling factor s, at least 1.
      in_chans: number of image channels. It must be 3, because the network subtracts an RGB mean.
      num_experts: number of low-rank experts in each rank modulating expert, at least 1.
      num_layers: number of residual groups, at least 1.
      embedding_dim: number of channels C of the feature maps, at least 1.
      img_range: factor of the input after the mean is subtracted, above 0.
      use_shuffle: whether the 2C channels are shuffled before they are split into features and context.
      global_kernel_size: length of the striped convolutions in pixels, an odd number.
      recursive: number of times that the context is reduced by 4, from 0 to 5.
      lr_space: growth of the experts' ranks: "exp" is 2, 4, 8, …; "linear" is 2, 3, 4, …; "double" is 2, 4, 6, ….
      topk: number of experts that the router chooses for each image and layer, from 1 to `num_experts`.
      compute_dtype: type of the activations, "float32" or "bfloat16". Parameters and the router's softmax are always
        float32.
      precision: precision of matrix products and convolutions. "highest" is float32 on every backend; "default" is the
        backend's default (bfloat16 on a TPU, possibly TF32 on a GPU).
      rematerialize: whether the backward pass recomputes each residual group instead of keeping its activations. This
        takes less memory and about a third more time, and does not change the values.
      implementation: implementation of the network: "auto" is the fastest one for JAX's default backend, "plain" is the
        reference; "cpu", "gpu" and "tpu" are those for these backends, for example to compile ahead for another
        machine.

    Raises:
      InputError: a value has the wrong type or is out of range.

    Source: options of the release's `SeemoRe` module; values of its nine option files.
    """

    scale: int = 4
    in_chans: int = 3
    num_experts: int = 3
    num_layers: int = 6
    embedding_dim: int = 36
    img_range: float = 1.0
    use_shuffle: bool = True
    global_kernel_size: int = 11
    recursive: int = 2
    lr_space: str = "exp"
    topk: int = 1
    compute_dtype: str = dataclasses.field(default="float32", metadata={"stored": False})
    precision: str = dataclasses.field(default="highest", metadata={"stored": False})
    rematerialize: bool = dataclasses.field(default=False, metadata={"stored": False})
    implementation: str = dataclasses.field(default="auto", metadata={"stored": False})

    def __post_init__(self) -> None:
        for name in ("scale", "num_experts", "num_layers", "embedding_dim", "topk"):
            self._require_integer(name, minimum=1)
        self._require_integer("recursive", minimum=0)
        self._require(self.recursive <= _MAX_RECURSIVE, "recursive", f"at most {_MAX_RECURSIVE}")
        self._require_integer("global_kernel_size", minimum=1)
        self._require(self.in_chans == 3, "in_chans", "3 (the network subtracts an RGB mean)")
        self._require(self.global_kernel_size % 2 == 1, "global_kernel_size", "an odd number")
        self._require(self.topk <= self.num_experts, "topk", f"at most num_experts={self.num_experts}")
        for name in ("use_shuffle", "rematerialize"):
            self._require(isinstance(getattr(self, name), bool), name, "true or false")
        self._require(_is_positive_number(self.img_range), "img_range", "a positive number of at most 1e6")
        self._require(self.lr_space in tuple(RANK_OF_EXPERT), "lr_space", _one_of(RANK_OF_EXPERT))
        self._require(self.compute_dtype in _COMPUTE_DTYPES, "compute_dtype", _one_of(_COMPUTE_DTYPES))
        self._require(self.precision in _PRECISIONS, "precision", _one_of(_PRECISIONS))
        self._require(self.implementation in _IMPLEMENTATIONS, "implementation", _one_of(_IMPLEMENTATIONS))

    def _require_integer(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        self._require(is_integer and value >= minimum, name, f"an integer of at least {minimum}")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise InputError(f"configuration: {name} must be {expected}, not {getattr(self, name)!r}")

    @classmethod
    def variant(cls, name: str, scale: int = 4, **overrides: Any) -> "SeemoReConfig":
        """Returns one of the nine published configurations.

        Args:
          name: "T", "B" or "L".
          scale: upscaling factor, 2, 3 or 4.
          **overrides: values that replace fields of the configuration, for example for an ablation.

        Raises:
          InputError: there is no such configuration, or a value is out of range.
        """
        if name not in _VARIANTS:
            raise InputError(f"configuration: variant must be {_one_of(_VARIANTS)}, not {name!r}")
        if scale not in SCALES:
            raise InputError(f"configuration: scale of a variant must be {_one_of(SCALES)}, not {scale!r}")
        return cls.from_dict({"scale": scale, **_VARIANTS[name], **overrides})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SeemoReConfig":
        """Returns the configuration of a dictionary, as `to_dict` makes it.

        Args:
          fields: values by the names of the attributes. Missing attributes take their defaults.

        Raises:
          InputError: a name is unknown, or a value has the wrong type or is out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(f"configuration: unknown field {unknown[0]!r}; fields are {', '.join(known)}")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes that describe the network, as files of weights store them, in types of JSON."""
        return {name: getattr(self, name) for name in stored_fields()}

    @property
    def variant_name(self) -> str | None:
        """Name of the published configuration ("T", "B" or "L"); None if this is none of the nine."""
        for name in VARIANTS:
            if self.scale in SCALES and self.to_dict() == self.variant(name, self.scale).to_dict():
                return name
        return None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the low-rank experts (paper, section 3.3)."""
        return tuple(RANK_OF_EXPERT[self.lr_space](i) for i in range(self.num_experts))

    @property
    def min_side(self) -> int:
        """Shortest image side in LR pixels of which the context is not empty after its reductions by 4."""
        return 4**self.recursive

    def macs(self, height: int, width: int, *, rank: float | None = None) -> int:
        """Returns the number of multiply-accumulate operations for one image, counted as in the paper.

        The number includes convolutions and linear maps, and only the chosen experts. The choice, and therefore the
        mean rank, differs between images. With a mean rank between 3.6 and 7, the number is equal to each of the nine
        values in the paper, digit for digit.

        Args:
          height, width: size of the output in pixels. The input has `scale` times fewer, rounded down.
          rank: mean rank of the chosen experts over the layers; by default, the mean rank of all experts.
        """
        channels, kernel = self.embedding_dim, self.global_kernel_size
        rows, columns = height // self.scale, width // self.scale
        pixels = rows * columns
        summary = 0  # operations of the context's summary: the reductions by 4, and the convolutions after them
        for _ in range(self.recursive):
            rows, columns = rows // 4, columns // 4
            summary += 4 * 4 * rows * columns * channels
        summary += rows * columns * (9 * channels + channels**2)
        experts = self.topk * 3 * channels * (sum(self.ranks) / self.num_experts if rank is None else rank)
        feed_forward = 3 * channels**2 + 9 * channels
        local = (9 + 2 + 1) * channels**2 + (3 + 3) * channels + experts + feed_forward
        global_ = 3 * channels**2 + 2 * kernel * channels + feed_forward
        group = pixels * (local + global_) + summary + channels * self.num_experts
        ends = 9 * channels * (self.in_chans + channels + self.in_chans * self.scale**2)
        return round(self.num_layers * group + pixels * ends)


def stored_fields() -> tuple[str, ...]:
    """Returns the names of the attributes that describe the network and are stored with its weights."""
    return tuple(f.name for f in dataclasses.fields(SeemoReConfig) if f.metadata.get("stored", True))


def _is_positive_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= 1e6  # also excludes NaN, and integers that are too large for a float


def _one_of(names: Any) -> str:
    return "one of " + ", ".join(map(str, names))
