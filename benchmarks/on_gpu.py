"""Prints everything that a GPU has to show about the kernels, in one command: values, speed, and the speed of peers.

    python -m benchmarks.on_gpu --output build/on_gpu.json

1. `python -m seemore_jax doctor`: the device, and the self-check with its timing.
2. The largest difference of the kernels from the plain network on random weights, at most 2e-5 in float32.
3. `benchmarks.inference` of an image in device memory, in bfloat16 and in float32, against PyTorch eager and
   torch.compile (channels_last), with the share of the memory bandwidth.
4. `benchmarks.training`: a training step in bfloat16, against the same.

Exits with status 1 if one of these fails, or if a goal is missed: 2 times the speed of torch.compile in bfloat16
inference, and 1.5 times in training. On a CPU it runs, too, which tests the command; it then judges only the values.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.harness import networks, options, processes, records
from seemore_jax import SeemoRe, SeemoReConfig

_BOUND = 2e-5  # of values in [0, 1], in float32
_GOALS = {"inference": 2.0, "training": 1.5}
# Names of the peers in `benchmarks.inference`, and in `benchmarks.training`.
_PEERS = {"eager": "channels_last", "compile": "compile"}
_SECONDS = 3600  # at most, for one command


def main() -> None:
    chosen = _options()
    failures: list[str] = []
    report: dict[str, Any] = {}
    _run("doctor", [sys.executable, "-m", "seemore_jax", "doctor"], failures)
    for dtype in ("float32", "bfloat16"):
        report[f"difference_{dtype}"] = difference = largest_difference(chosen.model, dtype, chosen.size)
        print(f"the kernels differ from the plain network in {dtype} by at most {difference:.1e}", flush=True)
    if not report["difference_float32"] <= _BOUND:
        failures.append(f"in float32, the kernels differ by more than {_BOUND}")
    width, height = chosen.size
    rounds = ["--rounds", str(chosen.rounds)]
    for dtype in ("bfloat16", "float32"):
        command = ["--models", chosen.model, "--size", f"{width}x{height}", "--dtype", dtype, "--placement", "device"]
        name = f"inference_{dtype}"
        report[name] = _benchmark(
            "inference", [*command, "--implementation", "gpu", "plain", *rounds, "--peers", *chosen.peers], failures
        )
    command = ["--model", chosen.model, "--batch_size", str(chosen.batch_size), "--dtype", "bfloat16"]
    command += ["--patch_size", str(chosen.patch_size), *rounds, "--peers", *(_PEERS[peer] for peer in chosen.peers)]
    report["training_bfloat16"] = _benchmark("training", command, failures)
    if jax.default_backend() != "cpu":
        inference = report["inference_bfloat16"].get("models", {}).get(chosen.model, {})
        failures += _missed("inference", inference, "seemore-jax (gpu)", "torch.compile")
        failures += _missed("training", report["training_bfloat16"], "seemore-jax (auto)", "PyTorch (compile)")
    records.finish(chosen.output, report, failures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_model(parser)
    parser.add_argument("--size", type=options.image_size, default=(640, 480), help="WxH (default: 640x480)")
    parser.add_argument("--batch_size", type=int, default=32, help="patches in a training step (default: %(default)s)")
    parser.add_argument(
        "--patch_size", type=int, default=64, help="side of a patch in LR pixels (default: %(default)s)"
    )
    parser.add_argument("--peers", nargs="*", choices=tuple(_PEERS), default=tuple(_PEERS), help="(default: all)")
    options.add_rounds(parser, default=20)
    options.add_output(parser)
    return parser.parse_args()


def largest_difference(name: str, dtype: str, size: tuple[int, int]) -> float:
    """Returns the largest difference between the kernels and the plain network, for an image of random values.

    Args:
      name: name of the network, such as "T-x4". Its weights are random.
      dtype: "float32" or "bfloat16".
      size: width and height of the image in LR pixels.
    """
    config = networks.config_of(name).to_dict() | {"compute_dtype": dtype, "precision": "highest"}
    parameters = nnx.state(SeemoRe(SeemoReConfig.from_dict(config), rngs=nnx.Rngs(0)))
    lr = jax.random.uniform(jax.random.key(0), (1, size[1], size[0], 3))

    def upscaled(implementation: str) -> jax.Array:
        model = SeemoRe.abstract(SeemoReConfig.from_dict(config | {"implementation": implementation}))
        graph = nnx.graphdef(model)
        return jax.jit(lambda parameters, lr: nnx.merge(graph, parameters)(lr))(parameters, lr)

    return float(jnp.max(jnp.abs(upscaled("gpu") - upscaled("plain"))))


def _benchmark(name: str, arguments: list[str], failures: list[str]) -> dict[str, Any]:
    """Runs a benchmark, prints its table, and returns its figures; an empty dict if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "figures.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments, "--output", str(output)]
        _run(f"benchmarks.{name}", command, failures)
        return json.loads(output.read_text()) if output.is_file() else {}


def _run(name: str, command: list[str], failures: list[str]) -> None:
    """Runs a command, prints its output, and adds a failure if it fails."""
    records.progress(f"running {' '.join(command[2:])}")
    ended = processes.run(command, timeout=_SECONDS)
    print(ended.stdout, flush=True)
    if ended.status:
        failures.append(f"{name} ends with status {ended.status}: {(ended.stderr or ended.stdout)[-2000:]}")


def _missed(what: str, figures: dict[str, Any], mine: str, peer: str) -> list[str]:
    """Returns a message if the goal is missed, or if there are no figures."""
    medians = figures.get("median_seconds", {})
    if mine not in medians or peer not in medians:
        return [f"there are no times of {mine} and {peer} for {what}"]
    ratio, goal = medians[peer] / medians[mine], _GOALS[what]
    print(f"{what}: {ratio:.2f} times the speed of {peer}; the goal is {goal}")
    return [f"{what} misses its goal"] if ratio < goal else []


if __name__ == "__main__":
    main()
