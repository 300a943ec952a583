"""SeemoRe (Zamfir et al., ICML 2024, arXiv 2402.03412), read from the top down.

    SeemoReNetwork
      ResidualGroup × num_layers
        RankModulatingExpert             local: which low-rank expert modulates the features?
          MixtureOfRankExpertsBlock
            MixtureOfLowRankExperts
              Router, LowRankExpert × num_experts
          GatedFeedForward
        SpatialModulatingExpert          global: striped large-kernel convolutions in place of attention
          SpatialEnhancementExpertise
            StripedConvolution
          GatedFeedForward

This module is the reference: it says what is computed. `seemore_jax.network.model` adds how it is computed: the fused
kernels of each backend are tested against the layers here. Feature maps are (N, H, W, C). The function is that of the
PyTorch release, to which `seemore_jax.porting` maps every parameter; unlike the release's, it takes any batch and
any image size.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.layers import (
    Abstract,
    channel_shuffle,
    convolution,
    depthwise_convolution,
    gelu,
    layer_norm,
    pixel_shuffle,
    pointwise,
    resize_bilinear,
)
from seemore_jax.network.routing import Routing

RGB_MEAN = (0.4488, 0.4371, 0.4040)

_Network = TypeVar("_Network", bound="SeemoReNetwork")


class SeemoReNetwork(nnx.Module):
    """The whole network: shallow features, residual groups, reconstruction by pixel shuffle.

    Args:
      config: the network's hyperparameters.
      rngs: source of the initial parameters, which follow PyTorch's default initialisation.
    """

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.config = config
        self.shallow_features = convolution(config, config.in_chans, channels, (3, 3), rngs=rngs)
        self.groups = nnx.List([ResidualGroup(config, rngs=rngs) for _ in range(config.num_layers)])
        self.norm = layer_norm(config, channels, rngs=rngs)
        self.deep_features = convolution(config, channels, channels, (3, 3), rngs=rngs)
        self.upsampler = convolution(config, channels, config.in_chans * config.scale**2, (3, 3), rngs=rngs)

    @classmethod
    def abstract(cls: type[_Network], config: SeemoReConfig) -> _Network:
        """Returns the network with shapes (`jax.ShapeDtypeStruct`) as parameters, to be filled by `nnx.merge`."""
        return cls(config, rngs=Abstract())

    def __call__(self, lr: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n sh sw 3"], Routing]:
        """Upscales a batch of RGB images.

        Args:
          lr: low-resolution images with values in [0, 1]; each side is at least `config.min_side` pixels long.

        Returns:
          float32 images of s times the size, nominally in [0, 1] but not clipped, and the routers' choices.
        """
        shallow = x = self.extract(lr)
        routings = []
        for group in self.groups:
            x, routing = group(x)
            routings.append(routing)
        return self.reconstruct(x, shallow), stack_routings(routings)

    def extract(self, lr: Float[Array, "n h w 3"]) -> Float[Array, "n h w c"]:
        """Returns the shallow features of an image."""
        return self.shallow_features(self.center(lr))

    def reconstruct(self, x: Float[Array, "n h w c"], shallow: Float[Array, "n h w c"]) -> Float[Array, "n sh sw 3"]:
        """Returns the image, from the features `x` after all groups and the shallow ones."""
        x = self.deep_features(self.norm(x)) + shallow
        return self.assemble(self.upsampler(x))

    def center(self, lr: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Subtracts the training images' mean, and scales to the network's own range of values."""
        return (lr - jnp.asarray(RGB_MEAN, jnp.float32)) * self.config.img_range

    def assemble(self, pixels: Float[Array, "n h w d"]) -> Float[Array, "n sh sw 3"]:
        """Returns the image of which `pixels` has d = 3·s² values for each LR pixel; adds the mean again."""
        x = pixel_shuffle(pixels, self.config.scale).astype(jnp.float32)
        return x / self.config.img_range + jnp.asarray(RGB_MEAN, jnp.float32)


def stack_routings(routings: Sequence[Routing]) -> Routing:
    """Stacks the routings of the groups along a new `groups` axis, which is axis 1."""
    return jax.tree.map(lambda *layers: jnp.stack(layers, axis=1), *routings)


class ResidualGroup(nnx.Module):
    """A rank modulating expert (local), then a spatial modulating expert (global)."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.rank_modulating = RankModulatingExpert(config, rngs=rngs)
        self.spatial_modulating = SpatialModulatingExpert(config, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Routing]:
        x, routing = self.rank_modulating(x)
        return self.spatial_modulating(x), routing


class RankModulatingExpert(nnx.Module):
    """RME (paper, section 3.2): x + MoRE(LN(x)), then x + GatedFFN(LN(x))."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.norm_1 = layer_norm(config, channels, rngs=rngs)
        self.mixture_block = MixtureOfRankExpertsBlock(config, rngs=rngs)
        self.norm_2 = layer_norm(config, channels, rngs=rngs)
        self.feed_forward = GatedFeedForward(config, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Routing]:
        modulated, routing = self.mixture_block(self.norm_1(x))
        x = x + modulated
        return x + self.feed_forward(self.norm_2(x)), routing


class MixtureOfRankExpertsBlock(nnx.Module):
    """MoRE: splits its input into local features and context, and lets a low-rank expert join the two."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.use_shuffle = config.use_shuffle
        self.recursive = config.recursive
        self.embed = convolution(config, channels, channels, (3, 3), rngs=rngs)
        self.expand = pointwise(config, channels, 2 * channels, rngs=rngs)
        self.local = StripedConvolution(config, kernel_size=3, rngs=rngs)
        self.aggregate = depthwise_convolution(config, channels, (4, 4), stride=4, rngs=rngs)
        self.context_depthwise = depthwise_convolution(config, channels, (3, 3), rngs=rngs)
        self.context_pointwise = pointwise(config, channels, channels, rngs=rngs)
        self.mixture = MixtureOfLowRankExperts(config, rngs=rngs)
        self.project = pointwise(config, channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Routing]:
        features, context = self.split(self.embed(x))
        mixed, routing = self.mixture(gelu(self.local(features)), self.calibrate(context))
        return self.project(mixed), routing

    def split(self, embedded: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"]]:
        """Returns features and context, two halves of the expanded channels."""
        x = self.expand(gelu(embedded))
        if self.use_shuffle:
            x = channel_shuffle(x)
        features, context = jnp.split(x, 2, axis=-1)
        return features, context

    def calibrate(self, context: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Adds to the context its own summary: reduced by 4 `recursive` times, mixed, and resized back."""
        summary = context
        for _ in range(self.recursive):
            summary = self.reduce(summary)
        summary = self.context_pointwise(self.context_depthwise(summary))
        return context + resize_bilinear(summary, *context.shape[1:3])

    def reduce(self, context: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Reduces height and width by 4; rows and columns beyond a multiple of 4 are dropped."""
        return gelu(self.aggregate(context))


class MixtureOfLowRankExperts(nnx.Module):
    """features + Σ over the top-k experts i of pᵢ·Eᵢ(features, context) (paper, section 3.3).

    Eᵢ(a, k) = up(from_features(a) · from_context(k)), of rank rᵢ. The pᵢ are the router's softmax over all
    experts, not renormalised over the chosen ones. The choice is made once for each image.

    Only the chosen experts take part: their weights, zero-padded to the largest rank so that they stack, are
    gathered for each image, and products with padding add exactly nothing. So one compiled function serves
    every routing, and the experts not chosen get a gradient of exactly zero.
    """

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.router = Router(config, rngs=rngs)
        self.experts = nnx.List([LowRankExpert(config, rank, rngs=rngs) for rank in config.ranks])

    def __call__(
        self, features: Float[Array, "n h w c"], context: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h w c"], Routing]:
        # 1. Route: (N, num_experts) probabilities, of which the top k count.
        routing = self.route(self.router(features))
        # 2. Gather the chosen experts' weights, and 3. apply them, all k at once, each image with its own.
        return self.mix(features, context, routing), routing

    def route(self, probabilities: Float[Array, "n num_experts"]) -> Routing:
        """Chooses the k most probable experts of each image."""
        return Routing(jax.lax.top_k(probabilities, self.config.topk)[1], probabilities)

    def mix(
        self, features: Float[Array, "n h w c"], context: Float[Array, "n h w c"], routing: Routing
    ) -> Float[Array, "n h w c"]:
        """Adds to the features the chosen experts' function of them and of the calibrated context."""
        weights = jnp.take_along_axis(routing.probabilities, routing.experts, axis=-1)
        expert = self.gathered(routing.experts)
        return features + _apply_experts(expert, weights, features, context, self.config.precision)

    def gathered(self, chosen: Int[Array, "n k"]) -> "ExpertWeights":
        """Gathers the weights of the chosen experts: (N, K, C, R), (N, K, R), (N, K, R, C), (N, K, C)."""
        padded = [expert.padded(max(self.config.ranks)) for expert in self.experts]
        return jax.tree.map(lambda *per_expert: jnp.stack(per_expert)[chosen], *padded)


class Router(nnx.Module):
    """softmax(W · mean of the features over all pixels): the probability of each expert for each image.

    In float32 whatever the compute dtype: near a tie, rounding would change the choice.
    """

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.precision = config.precision
        self.linear = pointwise(config, config.embedding_dim, config.num_experts, use_bias=False, rngs=rngs)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n num_experts"]:
        return self.choose(jnp.mean(features, axis=(1, 2), dtype=jnp.float32))

    def choose(self, pooled: Float[Array, "n c"]) -> Float[Array, "n num_experts"]:
        """Returns the probabilities, from the features' means."""
        logits = jnp.matmul(pooled, self.linear.kernel[...].astype(jnp.float32), precision=self.precision)
        return jax.nn.softmax(logits, axis=-1)


class ExpertWeights(NamedTuple):
    """The arrays of one low-rank expert, or of several along leading axes."""

    from_features: Float[Array, "*experts c r"]
    from_features_bias: Float[Array, "*experts r"]
    from_context: Float[Array, "*experts c r"]
    from_context_bias: Float[Array, "*experts r"]
    up: Float[Array, "*experts r c"]
    up_bias: Float[Array, "*experts c"]


class LowRankExpert(nnx.Module):
    """The parameters of one expert of a given rank; `MixtureOfLowRankExperts` applies them."""

    def __init__(self, config: SeemoReConfig, rank: int, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.rank = rank
        self.from_features = pointwise(config, channels, rank, rngs=rngs)
        self.from_context = pointwise(config, channels, rank, rngs=rngs)
        self.up = pointwise(config, rank, channels, rngs=rngs)

    def padded(self, rank: int) -> ExpertWeights:
        """Returns the weights with zeros appended up to `rank`, which compute the same function."""
        extra = (0, rank - self.rank)
        return ExpertWeights(
            from_features=jnp.pad(self.from_features.kernel[...], ((0, 0), extra)),
            from_features_bias=jnp.pad(_bias(self.from_features), extra),
            from_context=jnp.pad(self.from_context.kernel[...], ((0, 0), extra)),
            from_context_bias=jnp.pad(_bias(self.from_context), extra),
            up=jnp.pad(self.up.kernel[...], (extra, (0, 0))),
            up_bias=_bias(self.up),
        )


def _apply_experts(
    expert: ExpertWeights,
    weights: Float[Array, "n k"],
    features: Float[Array, "n h w c"],
    context: Float[Array, "n h w c"],
    precision: str,
) -> Float[Array, "n h w c"]:
    """Σ over k of weights·E(features, context), with the (N, K, …) experts of each image."""
    dtype = features.dtype
    # The routing weight goes into the last, linear map: cheaper than scaling a feature map.
    up = (expert.up * weights[..., None, None]).astype(dtype)
    up_bias = jnp.sum(expert.up_bias * weights[..., None], axis=1).astype(dtype)
    expert = jax.tree.map(lambda array: array.astype(dtype), expert)

    def project(x: Array, kernel: Array, bias: Array) -> Array:
        return jnp.einsum("nhwc,nkcr->nhwkr", x, kernel, precision=precision) + bias[:, None, None]

    low_rank = project(features, expert.from_features, expert.from_features_bias)
    low_rank *= project(context, expert.from_context, expert.from_context_bias)
    return jnp.einsum("nhwkr,nkrc->nhwc", low_rank, up, precision=precision) + up_bias[:, None, None]


def _bias(layer: nnx.Linear) -> Array:
    assert layer.bias is not None
    return layer.bias[...]


class SpatialModulatingExpert(nnx.Module):
    """SME (paper, section 3.4): x + SEE(LN(x)), then x + GatedFFN(LN(x))."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.norm_1 = layer_norm(config, channels, rngs=rngs)
        self.enhancement = SpatialEnhancementExpertise(config, rngs=rngs)
        self.norm_2 = layer_norm(config, channels, rngs=rngs)
        self.feed_forward = GatedFeedForward(config, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        x = x + self.enhancement(self.norm_1(x))
        return x + self.feed_forward(self.norm_2(x))


class SpatialEnhancementExpertise(nnx.Module):
    """SEE: conv1(striped(q)·v), where queries of a large neighbourhood gate the values."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.to_query_value = pointwise(config, channels, 2 * channels, rngs=rngs)
        self.striped = StripedConvolution(config, kernel_size=config.global_kernel_size, rngs=rngs)
        self.project = pointwise(config, channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        query, value = jnp.split(gelu(self.to_query_value(x)), 2, axis=-1)
        return self.project(self.striped(query) * value)


class StripedConvolution(nnx.Module):
    """A k×k depthwise convolution made of a row (1×k) and a column (k×1)."""

    def __init__(self, config: SeemoReConfig, *, kernel_size: int, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.row = depthwise_convolution(config, channels, (1, kernel_size), rngs=rngs)
        self.column = depthwise_convolution(config, channels, (kernel_size, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return self.column(self.row(x))


class GatedFeedForward(nnx.Module):
    """(a, g) = halves of GELU(conv1(x)); GELU(conv1(a · depthwise3(g)))."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.expand = pointwise(config, channels, 2 * channels, rngs=rngs)
        self.gate = depthwise_convolution(config, channels, (3, 3), rngs=rngs)
        self.project = pointwise(config, channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        values, gate = jnp.split(gelu(self.expand(x)), 2, axis=-1)
        return gelu(self.project(values * self.gate(gate)))
