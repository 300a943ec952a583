"""Time to upscale one image here, and with PyTorch, torch.compile, ONNX Runtime and OpenVINO.

    python -m benchmarks.inference --output build/inference.json
    python -m benchmarks.inference --dtype bfloat16 --size 640x480 --models T-x4     # on a machine with a GPU

All have the same random weights (from the release's network) and take and return a uint8 image in host memory, this
package through `seemore_jax.upscale`. They take turns in one run, and what they return is compared.
"""

import argparse
import sys
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks import peers, timing
from benchmarks.timing import Call
from seemore_jax.inference.runner import upscale_batch

DEFAULT_MODELS = ("T-x4", "T-x2", "L-x4")
PEERS = ("eager", "compile", "onnxruntime", "openvino")
LABELS = {
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
# How far apart the outputs of two peers may be, in 1/255: a value near a half may be rounded either way.
BOUNDS = {"float32": 1, "bfloat16": 5}

# Bytes per second of device memory, from the data sheets.
BANDWIDTH = {
    "H200": 4.8e12,
    "H100 PCIe": 2.0e12,
    "H100": 3.35e12,
    "A100-SXM4-80GB": 2.04e12,
    "A100-SXM4-40GB": 1.56e12,
    "L4": 0.3e12,
    "RTX 4090": 1.01e12,
}


def main() -> None:
    options = _options()
    peers.use_all_cores()
    results = {}
    for name in options.models:
        variant, scale = name.split("-x")
        print(name)
        results[name] = measure(sj.SeemoReConfig.variant(variant, int(scale)), options)
        print(flush=True)
    timing.write(options.output, {"models": results, "dtype": options.dtype, "placement": options.placement})
    worst = max(result["largest_difference"] for result in results.values())
    if worst > BOUNDS[options.dtype]:
        sys.exit(f"the outputs differ by {worst} of 255, more than {BOUNDS[options.dtype]}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds to upscale one image, here and elsewhere.")
    parser.add_argument("--models", nargs="+", choices=timing.MODELS, default=DEFAULT_MODELS, metavar="T-x4")
    parser.add_argument("--size", type=image_size, metavar="WxH", help="of the input (default: makes 1280x720)")
    parser.add_argument("--implementation", nargs="+", choices=("plain", "auto", "cpu"), default=["auto"])
    parser.add_argument("--dtype", choices=tuple(BOUNDS), default="float32")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="(default: all)")
    parser.add_argument(
        "--placement",
        choices=("host", "device"),
        default="host",
        help="of the images: host memory, copies included, or device memory (default: %(default)s)",
    )
    timing.add_arguments(parser, rounds=9)
    return parser.parse_args()


def image_size(text: str) -> tuple[int, int]:
    """(width, height) of "320x180"."""
    try:
        width, height = (int(side) for side in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 320x180") from None
    if min(width, height) < 16:  # the release fails below
        raise argparse.ArgumentTypeError("each side has at least 16 pixels")
    return width, height


def measure(config: sj.SeemoReConfig, options: argparse.Namespace) -> dict[str, Any]:
    """Times one network in all implementations, prints the table and returns the figures."""
    width, height = options.size or (round(1280 / config.scale), round(720 / config.scale))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    release = peers.release_network(config)
    print(f"{width}×{height} to {width * config.scale}×{height * config.scale}, {options.dtype}")

    calls, settings = {}, {}
    for implementation in options.implementation:
        label = f"seemore-jax ({implementation})"
        calls[label] = _ours(release, config, implementation, image, options)
    for peer in options.peers:
        print(f"preparing {LABELS[peer]}", file=sys.stderr, flush=True)
        try:
            settings[LABELS[peer]], calls[LABELS[peer]] = _peer(peer, release, image, options)
        except peers.Unavailable as reason:
            print(f"without {LABELS[peer]}: {reason}")
    images, first_calls = {}, {}
    for label, call in calls.items():
        start = time.perf_counter()
        images[label] = _to_numpy(call())
        first_calls[label] = time.perf_counter() - start
    difference = largest_difference(list(images.values()))
    timings = timing.round_robin(calls, rounds=options.rounds)
    print(timing.comparison(timings, list(settings), "images"))
    for label, setting in settings.items():
        print(f"{label}: {setting}")
    print(f"largest difference of two outputs: {difference} of 255")
    result = {
        "size": [width, height],
        "largest_difference": difference,
        "settings": settings,
        "first_call_seconds": first_calls,
        **timing.summary(timings, list(settings)),
    }
    fractions = _bandwidth_fractions(config, height * width, timings, options.dtype)
    if fractions:
        print("share of the memory bandwidth, were each map read and written as often as fused passes must:")
        print(", ".join(f"{label} {fraction:.0%}" for label, fraction in fractions.items()))
        result["share_of_bandwidth"] = fractions
    return result


def _ours(
    release: Any, config: sj.SeemoReConfig, implementation: str, image: np.ndarray, options: argparse.Namespace
) -> Call:
    fields = {**config.to_dict(), "implementation": implementation, "compute_dtype": options.dtype}
    model = peers.ported(release, sj.SeemoReConfig.from_dict(fields))
    if options.placement == "host":
        return lambda: sj.upscale(model, image)
    graph, parameters = nnx.split(model)
    upscale = jax.jit(upscale_batch, static_argnums=0)
    resident = jax.device_put(image[None])
    return lambda: jax.block_until_ready(upscale(graph, parameters, resident))[0]


def _peer(peer: str, release: Any, image: np.ndarray, options: argparse.Namespace) -> tuple[str, Call]:
    on_device = options.placement == "device"
    if peer == "eager":
        return peers.eager(release, image, dtype=options.dtype, on_device=on_device)
    if peer == "compile":
        return peers.compiled(release, image, dtype=options.dtype, on_device=on_device)
    if jax.default_backend() != "cpu":
        raise peers.Unavailable("measured on CPU only")
    make = peers.onnx_runtime if peer == "onnxruntime" else peers.openvino
    return make(release, image, dtype=options.dtype)


def _to_numpy(image: Any) -> np.ndarray:
    return image.cpu().numpy() if hasattr(image, "cpu") else np.asarray(image)


def largest_difference(images: list[np.ndarray]) -> int:
    """Between any two of them at any pixel, in 1/255."""
    stack = np.stack(images).astype(np.int16)
    return int(np.max(stack.max(axis=0) - stack.min(axis=0)))


def ideal_traffic(config: sj.SeemoReConfig, pixels: int, bytes_per_value: int) -> int:
    """Bytes that upscaling moves if all operations are fused but those that need a whole map before they start.

    In maps of C channels, a group: MoRE 7 (in; features and context out, as the router takes a mean over all pixels;
    both in, input in, sum out), twice GatedFFN 2 and SEE 2 (in and out). Head and tail: 1 out; 2 in. Weights and
    rereading at the edges of tiles are left out.
    """
    maps = 13 * config.num_layers + 3
    images = 3 * pixels * (1 + config.scale**2)  # uint8
    return maps * config.embedding_dim * pixels * bytes_per_value + images


def _bandwidth_fractions(
    config: sj.SeemoReConfig, pixels: int, timings: timing.Timings, dtype: str
) -> dict[str, float]:
    kind = jax.devices()[0].device_kind
    known = [bandwidth for device, bandwidth in BANDWIDTH.items() if device in kind]
    if not known:
        return {}
    ideal = ideal_traffic(config, pixels, 4 if dtype == "float32" else 2) / known[0]
    return {label: ideal / timings.median(label) for label in timings.seconds}


if __name__ == "__main__":
    main()
