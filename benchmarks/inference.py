"""Measures the time to upscale one image here, and with PyTorch, torch.compile, ONNX Runtime and OpenVINO.

    python -m benchmarks.inference --output build/inference.json
    python -m benchmarks.inference --dtype bfloat16 --size 640x480 --models T-x4     # on a machine with a GPU

All of them have the same random weights (from the release's network), and take and return a uint8 image in host
memory; this package does so through `seemore_jax.upscale`. They take turns in one run, and their outputs are compared.
Exits with status 1 if two outputs differ by more than rounding explains.
"""

import argparse
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

import seemore_jax as sj
from benchmarks import peers
from benchmarks.harness import networks, options, records, tables, timing
from benchmarks.harness.timing import Call
from seemore_jax.ahead_of_time.gpus import GPUS
from seemore_jax.inference.runner import upscale_batch

DEFAULT_MODELS = ("T-x4", "T-x2", "L-x4")
PEERS = ("eager", "compile", "onnxruntime", "openvino")
LABELS = {
    "eager": "PyTorch eager",
    "compile": "torch.compile",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
# The largest difference of two outputs that is accepted, in 1/255: values near a half may be rounded up or down.
BOUNDS = {"float32": 1, "bfloat16": 5}

# Bytes per second of memory of two devices for which no program is compiled ahead of time, from the data sheets.
_OTHER_BANDWIDTHS = {"NVIDIA H100 PCIe": 2.0e12, "NVIDIA A100-SXM4-80GB": 2.04e12}


def main() -> None:
    chosen = _options()
    peers.use_all_cores()
    results = {}
    for name in chosen.models:
        print(name)
        results[name] = measure(networks.config_of(name), chosen)
        print(flush=True)
    worst = max(result["largest_difference"] for result in results.values())
    bound = BOUNDS[chosen.dtype]
    failures = [f"the outputs differ by {worst} of 255, more than {bound}"] if worst > bound else []
    records.finish(chosen.output, {"models": results, "dtype": chosen.dtype, "placement": chosen.placement}, failures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures the time to upscale one image, here and with others.")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=networks.MODELS,
        default=DEFAULT_MODELS,
        metavar="T-x4",
        help=f"variants and scales (default: {' '.join(DEFAULT_MODELS)})",
    )
    parser.add_argument(
        "--size",
        type=options.image_size,
        metavar="WxH",
        help="size of the input (default: the one that makes 1280x720)",
    )
    options.add_implementations(parser)
    parser.add_argument("--dtype", choices=tuple(BOUNDS), default="float32", help="(default: %(default)s)")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="(default: all)")
    parser.add_argument(
        "--placement",
        choices=("host", "device"),
        default="host",
        help="where the images are: in host memory, copies included, or in device memory (default: %(default)s)",
    )
    options.add_rounds(parser, default=9)
    options.add_output(parser)
    return parser.parse_args()


def measure(config: sj.SeemoReConfig, chosen: argparse.Namespace) -> dict[str, Any]:
    """Times one network in all implementations, prints the table and returns the figures."""
    width, height = chosen.size or (round(1280 / config.scale), round(720 / config.scale))
    print(f"{width}×{height} to {width * config.scale}×{height * config.scale}, {chosen.dtype}")
    calls, settings = _prepare(config, networks.random_images(1, height, width)[0], chosen)
    images, first_calls = {}, {}
    for label, call in calls.items():
        start = time.perf_counter()
        images[label] = _to_numpy(call())
        first_calls[label] = time.perf_counter() - start
    difference = largest_difference(list(images.values()))
    timings = timing.in_turns(calls, rounds=chosen.rounds)
    print(tables.comparison(timings, list(settings), "images"))
    for label, setting in settings.items():
        print(f"{label}: {setting}")
    print(f"largest difference of two outputs: {difference} of 255")
    result = {
        "size": [width, height],
        "largest_difference": difference,
        "settings": settings,
        "first_call_seconds": first_calls,
        **timings.summary(list(settings)),
    }
    fractions = _bandwidth_fractions(config, height * width, timings, chosen.dtype)
    if fractions:
        print("share of the memory bandwidth, if maps are moved as rarely as fused operations allow:")
        print(", ".join(f"{label} {fraction:.0%}" for label, fraction in fractions.items()))
        result["share_of_bandwidth"] = fractions
    return result


def _prepare(
    config: sj.SeemoReConfig, image: np.ndarray, chosen: argparse.Namespace
) -> tuple[dict[str, Call], dict[str, str]]:
    """Returns the calls of this package and of the peers, and the setting of each peer that can run here."""
    release = peers.release_network(config)
    calls, settings = {}, {}
    for implementation in chosen.implementation:
        calls[f"seemore-jax ({implementation})"] = _ours(release, config, implementation, image, chosen)
    for peer in chosen.peers:
        records.progress(f"preparing {LABELS[peer]}")
        try:
            settings[LABELS[peer]], calls[LABELS[peer]] = _peer(peer, release, image, chosen)
        except peers.Unavailable as reason:
            print(f"without {LABELS[peer]}: {reason}")
    return calls, settings


def _ours(
    release: Any, config: sj.SeemoReConfig, implementation: str, image: np.ndarray, chosen: argparse.Namespace
) -> Call:
    fields = {**config.to_dict(), "implementation": implementation, "compute_dtype": chosen.dtype}
    model = peers.ported(release, sj.SeemoReConfig.from_dict(fields))
    if chosen.placement == "host":
        return lambda: sj.upscale(model, image)
    graph, parameters = nnx.split(model)
    upscale = jax.jit(upscale_batch, static_argnums=0)
    resident = jax.device_put(image[None])
    return lambda: jax.block_until_ready(upscale(graph, parameters, resident))[0]


def _peer(peer: str, release: Any, image: np.ndarray, chosen: argparse.Namespace) -> tuple[str, Call]:
    on_device = chosen.placement == "device"
    if peer == "eager":
        return peers.eager(release, image, dtype=chosen.dtype, on_device=on_device)
    if peer == "compile":
        return peers.compiled(release, image, dtype=chosen.dtype, on_device=on_device)
    if jax.default_backend() != "cpu":
        raise peers.Unavailable("it is measured on CPUs only")
    make = peers.onnx_runtime if peer == "onnxruntime" else peers.openvino
    return make(release, image, dtype=chosen.dtype)


def _to_numpy(image: Any) -> np.ndarray:
    return image.cpu().numpy() if hasattr(image, "cpu") else np.asarray(image)


def largest_difference(images: list[np.ndarray]) -> int:
    """Returns the largest difference between any two of the uint8 images at any pixel."""
    stack = np.stack(images).astype(np.int16)
    return int(np.max(stack.max(axis=0) - stack.min(axis=0)))


def ideal_traffic(config: sj.SeemoReConfig, pixels: int, bytes_per_value: int) -> int:
    """Returns the bytes that upscaling reads and writes if all operations are fused where that is possible.

    An operation that needs a whole map before it starts cannot be fused with the one before it. Counted in maps of C
    channels, a group moves: MoRE 7 (it reads its input; it writes features and context, because the router takes a
    mean over all pixels; it reads both and its input; it writes the sum), each GatedFFN 2 and SEE 2 (input and
    output). The head writes 1 map, the tail reads 2. Weights are not counted, nor pixels that tiles read twice.
    """
    maps = 13 * config.num_layers + 3
    images = 3 * pixels * (1 + config.scale**2)  # uint8
    return maps * config.embedding_dim * pixels * bytes_per_value + images


def _bandwidth_fractions(
    config: sj.SeemoReConfig, pixels: int, timings: timing.Timings, dtype: str
) -> dict[str, float]:
    bandwidths = _OTHER_BANDWIDTHS | {gpu.name: gpu.hbm_bandwidth for gpu in GPUS.values()}
    bandwidth = bandwidths.get(jax.devices()[0].device_kind)
    if bandwidth is None:
        return {}
    ideal = ideal_traffic(config, pixels, 4 if dtype == "float32" else 2) / bandwidth
    return {label: ideal / timings.median(label) for label in timings.seconds}


if __name__ == "__main__":
    main()
