"""This module defines SeemoRe (Zamfir et al., ICML 2024, arXiv 2402.03412), first the network, then its parts.

    SeemoReNetwork
      ResidualGroup × num_layers
        RankModulatingExpert             local: the router chooses a low-rank expert (3.2)
          MixtureOfRankExpertsBlock      MoRE (3.3)
            MixtureOfLowRankExperts
              Router, LowRankExpert × num_experts
          GatedFeedForward
        SpatialModulatingExpert          global: striped convolutions with large kernels (3.4)
          SpatialEnhancementExpertise
            StripedConvolution
          GatedFeedForward

The numbers in parentheses are sections of the paper. This module is the reference: it defines the function of the
network, and the fused kernels of each backend (`seemore_jax.network.implementations`) are tested against it. The
function is that of the PyTorch release, to which `seemore_jax.porting` maps every parameter. Feature maps are
(N, H, W, C). In formulas, conv1, conv3, depthwise3 and so on are convolutions with kernels of this size.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from seemore_jax.network.config import SeemoReConfig
from seemore_jax.network.layers import (
    Abstract,
    bias_of,
    channel_shuffle,
    convolution,
    depthwise_convolution,
    gelu,
    layer_norm,
    pixel_shuffle,
    pointwise,
    resize_bilinear,
)
from seemore_jax.network.routing import Routing, stack_routings

RGB_MEAN = (0.4488, 0.4371, 0.4040)

_Network = TypeVar("_Network", bound="SeemoReNetwork")


class SeemoReNetwork(nnx.Module):
    """The whole network computes shallow features, applies residual groups, and reconstructs by pixel shuffle.

    Args:
      config: hyperparameters of the network.
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
        """Returns the network with shapes (`jax.ShapeDtypeStruct`) as parameters, without values.

        Args:
          config: hyperparameters of the network.
        """
        return cls(config, rngs=Abstract())

    def __call__(self, lr: Float[Array, "n h w 3"]) -> tuple[Float[Array, "n sh sw 3"], Routing]:
        """Upscales a batch of RGB images.

        Args:
          lr: low-resolution images with values in [0, 1]; each side is at least `config.min_side` pixels long.

        Returns:
          float32 images of s times the size, nominally in [0, 1] but not clipped, and the routing with a `groups` axis.
        """
        shallow = x = self.extract(lr)
        routings = []
        for group in self.groups:
            x, routing = group(x)
            routings.append(routing)
        return self.reconstruct(x, shallow), stack_routings(routings)

    def extract(self, lr: Float[Array, "n h w 3"]) -> Float[Array, "n h w c"]:
        """Returns the shallow features, conv3(center(lr)).

        Args:
          lr: images with values in [0, 1].
        """
        return self.shallow_features(self.center(lr))

    def reconstruct(self, x: Float[Array, "n h w c"], shallow: Float[Array, "n h w c"]) -> Float[Array, "n sh sw 3"]:
        """Returns the upscaled images, assemble(conv3(conv3(LN(x)) + shallow)).

        Args:
          x: features after all residual groups.
          shallow: shallow features.
        """
        x = self.deep_features(self.norm(x)) + shallow
        return self.assemble(self.upsampler(x))

    def center(self, lr: Float[Array, "n h w 3"]) -> Float[Array, "n h w 3"]:
        """Returns (lr − mean) · img_range, with the RGB mean of the training images.

        Args:
          lr: images with values in [0, 1].
        """
        return (lr - jnp.asarray(RGB_MEAN, jnp.float32)) * self.config.img_range

    def assemble(self, pixels: Float[Array, "n h w d"]) -> Float[Array, "n sh sw 3"]:
        """Returns pixel_shuffle(pixels) / img_range + mean, as float32.

        Args:
          pixels: d = 3·s² values for each LR pixel.
        """
        x = pixel_shuffle(pixels, self.config.scale).astype(jnp.float32)
        return x / self.config.img_range + jnp.asarray(RGB_MEAN, jnp.float32)


class ResidualGroup(nnx.Module):
    """A residual group computes SME(RME(x)): a rank modulating expert, then a spatial modulating expert."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.rank_modulating = RankModulatingExpert(config, rngs=rngs)
        self.spatial_modulating = SpatialModulatingExpert(config, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> tuple[Float[Array, "n h w c"], Routing]:
        x, routing = self.rank_modulating(x)
        return self.spatial_modulating(x), routing


class RankModulatingExpert(nnx.Module):
    """RME (paper, section 3.2) computes y = x + MoRE(LN(x)), then y + GatedFFN(LN(y)); LN is layer normalisation."""

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
    """MoRE (section 3.3) computes (a, z) = split(conv3(x)), then conv1(mixture(GELU(striped(a)), calibrate(z)))."""

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
        """Returns a and z, the halves of the (shuffled) channels of conv1(GELU(embedded)).

        Args:
          embedded: conv3(x).
        """
        x = self.expand(gelu(embedded))
        if self.use_shuffle:
            x = channel_shuffle(x)
        features, context = jnp.split(x, 2, axis=-1)
        return features, context

    def calibrate(self, context: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Returns z + resize(conv1(depthwise3(reduceᵐ(z)))), where m is `recursive`.

        Args:
          context: context z.
        """
        summary = context
        for _ in range(self.recursive):
            summary = self.reduce(summary)
        summary = self.context_pointwise(self.context_depthwise(summary))
        return context + resize_bilinear(summary, *context.shape[1:3])

    def reduce(self, context: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
        """Returns GELU(depthwise4(z)) with stride 4: height and width are divided by 4 and rounded down.

        Args:
          context: context z, or a reduction of it.
        """
        return gelu(self.aggregate(context))


class MixtureOfLowRankExperts(nnx.Module):
    """The mixture of low-rank experts (paper, section 3.3) computes a + Σ pᵢ·Eᵢ(a, z) over the top-k experts i.

    Eᵢ(a, z) = up(from_features(a) · from_context(z)) has rank rᵢ. The pᵢ are the router's softmax over all experts,
    not normalised again over the chosen ones. The router chooses once for each image.

    Only the chosen experts are computed: their weights are padded with zeros to the largest rank, stacked, and gathered
    for each image. One compiled function therefore serves every routing, and other experts have gradient 0.
    """

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.router = Router(config, rngs=rngs)
        self.experts = nnx.List([LowRankExpert(config, rank, rngs=rngs) for rank in config.ranks])

    def __call__(
        self, features: Float[Array, "n h w c"], context: Float[Array, "n h w c"]
    ) -> tuple[Float[Array, "n h w c"], Routing]:
        routing = self.route(self.router(features))
        return self.mix(features, context, routing), routing

    def route(self, probabilities: Float[Array, "n num_experts"]) -> Routing:
        """Returns the routing of this layer: the k most probable experts of each image.

        Args:
          probabilities: probabilities of all experts, as `Router` computes them.
        """
        return Routing(jax.lax.top_k(probabilities, self.config.topk)[1], probabilities)

    def mix(
        self, features: Float[Array, "n h w c"], context: Float[Array, "n h w c"], routing: Routing
    ) -> Float[Array, "n h w c"]:
        """Returns a + Σ pᵢ·Eᵢ(a, z) over the chosen experts i.

        Args:
          features: local features a.
          context: calibrated context z.
          routing: routing of this layer.
        """
        weights = jnp.take_along_axis(routing.probabilities, routing.experts, axis=-1)
        expert = self.gathered(routing.experts)
        return features + _apply_experts(expert, weights, features, context, self.config.precision)

    def gathered(self, chosen: Int[Array, "n k"]) -> "ExpertWeights":
        """Returns the weights of the chosen experts, with leading axes (N, K), padded to the largest rank.

        Args:
          chosen: indices of the experts.
        """
        padded = [expert.padded(max(self.config.ranks)) for expert in self.experts]
        return jax.tree.map(lambda *per_expert: jnp.stack(per_expert)[chosen], *padded)


class Router(nnx.Module):
    """The router (paper, section 3.3) returns softmax(W · mean of a over all pixels), the probability of each expert.

    It computes in float32 for every `compute_dtype`, because rounding can change the choice near a tie.
    """

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        self.precision = config.precision
        self.linear = pointwise(config, config.embedding_dim, config.num_experts, use_bias=False, rngs=rngs)

    def __call__(self, features: Float[Array, "n h w c"]) -> Float[Array, "n num_experts"]:
        return self.choose(jnp.mean(features, axis=(1, 2), dtype=jnp.float32))

    def choose(self, pooled: Float[Array, "n c"]) -> Float[Array, "n num_experts"]:
        """Returns softmax(W · pooled), float32.

        Args:
          pooled: mean of the features over all pixels of each image, float32.
        """
        logits = jnp.matmul(pooled, self.linear.kernel[...].astype(jnp.float32), precision=self.precision)
        return jax.nn.softmax(logits, axis=-1)


class ExpertWeights(NamedTuple):
    """These are weights of low-rank experts of rank r; the leading axes are the index of the expert."""

    from_features: Float[Array, "*experts c r"]
    from_features_bias: Float[Array, "*experts r"]
    from_context: Float[Array, "*experts c r"]
    from_context_bias: Float[Array, "*experts r"]
    up: Float[Array, "*experts r c"]
    up_bias: Float[Array, "*experts c"]


class LowRankExpert(nnx.Module):
    """Parameters of one low-rank expert; `MixtureOfLowRankExperts` applies them (paper, section 3.3)."""

    def __init__(self, config: SeemoReConfig, rank: int, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.rank = rank
        self.from_features = pointwise(config, channels, rank, rngs=rngs)
        self.from_context = pointwise(config, channels, rank, rngs=rngs)
        self.up = pointwise(config, rank, channels, rngs=rngs)

    def padded(self, rank: int) -> ExpertWeights:
        """Returns the weights, padded with zeros to a larger rank; they compute the same function.

        Args:
          rank: rank of the result, at least the rank of this expert.
        """
        extra = (0, rank - self.rank)
        return ExpertWeights(
            from_features=jnp.pad(self.from_features.kernel[...], ((0, 0), extra)),
            from_features_bias=jnp.pad(bias_of(self.from_features), extra),
            from_context=jnp.pad(self.from_context.kernel[...], ((0, 0), extra)),
            from_context_bias=jnp.pad(bias_of(self.from_context), extra),
            up=jnp.pad(self.up.kernel[...], (extra, (0, 0))),
            up_bias=bias_of(self.up),
        )


def _apply_experts(
    expert: ExpertWeights,
    weights: Float[Array, "n k"],
    features: Float[Array, "n h w c"],
    context: Float[Array, "n h w c"],
    precision: str,
) -> Float[Array, "n h w c"]:
    """Computes Σ over k of weights·E(features, context), with the (N, K, …) experts of each image."""
    dtype = features.dtype
    # The last map, which is linear, is multiplied by the routing weight: this is cheaper than to scale a feature map.
    up = (expert.up * weights[..., None, None]).astype(dtype)
    up_bias = jnp.sum(expert.up_bias * weights[..., None], axis=1).astype(dtype)
    expert = jax.tree.map(lambda array: array.astype(dtype), expert)

    def project(x: Array, kernel: Array, bias: Array) -> Array:
        return jnp.einsum("nhwc,nkcr->nhwkr", x, kernel, precision=precision) + bias[:, None, None]

    low_rank = project(features, expert.from_features, expert.from_features_bias)
    low_rank *= project(context, expert.from_context, expert.from_context_bias)
    return jnp.einsum("nhwkr,nkrc->nhwc", low_rank, up, precision=precision) + up_bias[:, None, None]


class SpatialModulatingExpert(nnx.Module):
    """SME (paper, section 3.4) computes y = x + SEE(LN(x)), then y + GatedFFN(LN(y))."""

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
    """SEE (paper, section 3.4) computes (q, v) = halves of GELU(conv1(x)), then conv1(striped(q) · v)."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.to_query_value = pointwise(config, channels, 2 * channels, rngs=rngs)
        self.striped = StripedConvolution(config, kernel_size=config.global_kernel_size, rngs=rngs)
        self.project = pointwise(config, channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        query, value = jnp.split(gelu(self.to_query_value(x)), 2, axis=-1)
        return self.project(self.striped(query) * value)


class StripedConvolution(nnx.Module):
    """Striped convolution (paper, section 3.4) applies a depthwise convolution along rows (1×l), then columns (l×1)."""

    def __init__(self, config: SeemoReConfig, *, kernel_size: int, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.row = depthwise_convolution(config, channels, (1, kernel_size), rngs=rngs)
        self.column = depthwise_convolution(config, channels, (kernel_size, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        return self.column(self.row(x))


class GatedFeedForward(nnx.Module):
    """GatedFFN computes (a, g) = halves of GELU(conv1(x)), then GELU(conv1(a · depthwise3(g)))."""

    def __init__(self, config: SeemoReConfig, *, rngs: nnx.Rngs) -> None:
        channels = config.embedding_dim
        self.expand = pointwise(config, channels, 2 * channels, rngs=rngs)
        self.gate = depthwise_convolution(config, channels, (3, 3), rngs=rngs)
        self.project = pointwise(config, channels, channels, rngs=rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        values, gate = jnp.split(gelu(self.expand(x)), 2, axis=-1)
        return gelu(self.project(values * self.gate(gate)))
