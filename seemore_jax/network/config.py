"""The hyperparameters of SeemoRe: the release's options, and its nine configurations."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from seemore_jax.system.errors import InputError

# Rank of the expert with index i (paper, section 3.3: the "low-rank space").
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

# Images are padded to 4**recursive pixels: beyond this, a small image would take gigabytes.
_MAX_RECURSIVE = 5
_COMPUTE_DTYPES = ("float32", "bfloat16")
_PRECISIONS = ("default", "high", "highest")
_IMPLEMENTATIONS = ("auto", "plain", "cpu", "tpu")


@dataclasses.dataclass(frozen=True)
class SeemoReConfig:
    """What the network is (the release's options, under the release's names) and how it is computed.

    Attributes:
      scale: upscaling factor s.
      in_chans: image channels; 3, since the network subtracts an RGB mean.
      num_experts: low-rank experts in each rank modulating expert.
      num_layers: residual groups.
      embedding_dim: channels C of the feature maps.
      img_range: factor that the mean-free input is multiplied by.
      use_shuffle: shuffle the 2C channels before they are halved into features and context.
      global_kernel_size: length of the striped convolutions; odd.
      recursive: how many times the context is reduced by 4.
      lr_space: growth of the experts' ranks: "exp" 2, 4, 8, …; "linear" 2, 3, 4, …; "double" 2, 4, 6, ….
      topk: experts chosen for each image and layer.
      compute_dtype: "float32" or "bfloat16", for activations; parameters and the router's softmax stay
        in float32.
      precision: of matrix products and convolutions. "highest" is float32 on every backend; "default" is
        the backend's own (bfloat16 passes on a TPU, possibly TF32 on a GPU).
      rematerialize: recompute each residual group in the backward pass instead of keeping its activations:
        less memory, about a third more time; no effect on values.
      implementation: of the residual groups: "auto" is the fastest on JAX's default backend, "plain" the reference,
        "cpu" and "tpu" those made for these backends, for instance to compile ahead for another machine.

    The last four are a choice of the run and not of the weights: no file stores them.

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
        """One of the nine published configurations: `name` T, B or L at `scale` 2, 3 or 4.

        `overrides` replace single fields, for ablations and small test networks.
        """
        if name not in _VARIANTS:
            raise InputError(f"configuration: variant must be {_one_of(_VARIANTS)}, not {name!r}")
        if scale not in SCALES:
            raise InputError(f"configuration: scale of a variant must be {_one_of(SCALES)}, not {scale!r}")
        return cls.from_dict({"scale": scale, **_VARIANTS[name], **overrides})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SeemoReConfig":
        """The inverse of `to_dict`; missing fields take their defaults, unknown ones are an error."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise InputError(f"configuration: unknown field {unknown[0]!r}; fields are {', '.join(known)}")
        return cls(**fields)

    def to_dict(self) -> dict[str, Any]:
        """The fields that describe the network, as stored beside weights (JSON-compatible)."""
        return {name: getattr(self, name) for name in stored_fields()}

    @property
    def variant_name(self) -> str | None:
        """T, B or L if this is one of the nine published configurations, otherwise None."""
        for name in VARIANTS:
            if self.scale in SCALES and self.to_dict() == self.variant(name, self.scale).to_dict():
                return name
        return None

    @property
    def ranks(self) -> tuple[int, ...]:
        """Rank of each low-rank expert."""
        return tuple(RANK_OF_EXPERT[self.lr_space](i) for i in range(self.num_experts))

    @property
    def min_side(self) -> int:
        """Shortest image side, in LR pixels, that the context's `recursive` reductions by 4 leave non-empty."""
        return 4**self.recursive

    def macs(self, height: int, width: int, *, rank: float | None = None) -> int:
        """Multiply-accumulates for an output of that size, as the paper counts them.

        Counted are convolutions and linear maps; of the experts, those that are chosen. Which ones that are differs
        between images and layers, and so do their ranks, and the count: it is each of the paper's nine figures, digit
        for digit, at a mean rank between 3.6 and 7.

        Args:
          height, width: of the output, in pixels; it is made of `scale` times fewer LR pixels, rounded down.
          rank: mean over the layers of the chosen experts' rank; by default that of all experts.
        """
        channels, kernel = self.embedding_dim, self.global_kernel_size
        rows, columns = height // self.scale, width // self.scale
        pixels = rows * columns
        summary = 0  # of the context, which is reduced by 4 in height and width, and mixed
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
    """Names of the fields that describe the network, and so belong into files."""
    return tuple(f.name for f in dataclasses.fields(SeemoReConfig) if f.metadata.get("stored", True))


def _is_positive_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 < value <= 1e6  # also excludes NaN, and integers that no float can hold


def _one_of(names: Any) -> str:
    return "one of " + ", ".join(map(str, names))
