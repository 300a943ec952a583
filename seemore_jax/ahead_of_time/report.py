"""Reports what a program needs on TPUs or GPUs and how long it would take, as a table and as JSON.

This is the command `python -m seemore_jax compile`.
"""

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from seemore_jax.ahead_of_time.compilation import Compiled, compile_traced, inference_kernel_cycles, step_kernel_cycles
from seemore_jax.ahead_of_time.matrix_flops import matrix_flops
from seemore_jax.ahead_of_time.program_cost import Collective, program_cost
from seemore_jax.ahead_of_time.programs import trace_inference, trace_step
from seemore_jax.ahead_of_time.roofline import Roofline, ScalingPrediction, largest_batch
from seemore_jax.ahead_of_time.targets import (
    Target,
    all_reduce_seconds,
    assumptions,
    estimate,
    predict_scaling,
    require_compiler,
    target,
)
from seemore_jax.ahead_of_time.topologies import Topology
from seemore_jax.network import SeemoRe
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import atomic_write
from seemore_jax.training.experiment import Experiment, read_experiment


@dataclasses.dataclass(frozen=True)
class Report:
    """The report on one program on one topology. All sizes and counts are those of one device.

    A device is a chip, one half of a TPU7x chip, or a GPU.

    Attributes:
      topology: the name of the slice or of the GPUs, such as "v5e:2x4" or "h100:8".
      chips: the number of devices that run the program; inference runs on one.
      images: the number of images on each device: the patches of a step, or 1 for inference.
      memory: bytes, under the keys of `program_cost.memory_bytes`.
      hbm_bytes: the HBM that a program can use, in bytes.
      matrix_flops: FLOPs of products and convolutions, as `matrix_flops` counts them.
      hbm_traffic: bytes, as `program_cost` counts them.
      xla_cycles: XLA's estimate for its own instructions; 0 for a GPU, where there is none.
      kernel_cycles: libtpu's estimate for the Pallas kernels, or None if they were left out; 0 for a GPU.
      kernel_launches: how many kernels a GPU starts, or None for a TPU.
      collectives: the communication between chips.
      compile_seconds: the time of the compilation, which may be that of an earlier run.
      largest_batch: the largest number of images that fit on a chip, or None for inference.
      largest_batch_from: how `largest_batch` was found.
      roofline: the estimated times in seconds.
      scaling: predictions for more chips with the same batch on each chip; empty for inference.
    """

    topology: str
    chips: int
    images: int
    memory: dict[str, int]
    hbm_bytes: int
    matrix_flops: int
    hbm_traffic: int
    xla_cycles: int
    kernel_cycles: int | None
    kernel_launches: int | None
    collectives: tuple[Collective, ...]
    compile_seconds: float
    largest_batch: int | None
    largest_batch_from: str
    roofline: Roofline
    scaling: tuple[ScalingPrediction, ...]

    @property
    def occupied(self) -> int:
        """Returns the bytes of the chip's memory that are occupied while the program runs."""
        return occupied_bytes(self.memory)

    @property
    def images_per_second(self) -> float:
        """Returns the estimated images per second of all chips together."""
        return self.images * self.chips / self.roofline.step


def occupied_bytes(memory: dict[str, int]) -> int:
    """Returns the memory that a program occupies. Results that replace an argument do not count twice.

    Args:
      memory: bytes, under the keys of `program_cost.memory_bytes`.

    Returns:
      Bytes.
    """
    return sum(memory.values()) - 2 * memory["aliased"]


def run(options: argparse.Namespace) -> None:
    """Runs the command `compile`: prints the table, and writes the JSON file if one is wanted.

    Args:
      options: the parsed options, which `command_line/compile.py` defines.

    Raises:
      InputError: a topology is unknown, its compiler is missing, the configuration does not fit the topology, or a
        program does not fit into the memory of a chip.
    """
    topologies = [target(name) for name in options.topology]
    for one in topologies:
        require_compiler(one)
    experiment = read_experiment(options.config, options.overrides)
    reports = [
        inference_report(experiment, one, *options.inference, kernels=options.kernels)
        if options.inference
        else step_report(experiment, one, options.batch_per_chip, options.second_batch, kernels=options.kernels)
        for one in topologies
    ]
    program = "inference of one image of {}×{}".format(*options.inference) if options.inference else "training step"
    print(format_table(f"{_described(experiment)}: {program}", _parameter_bytes(experiment), reports))
    if options.json:
        with atomic_write(options.json) as temporary:
            temporary.write_text(json.dumps([to_json(report) for report in reports], indent=2) + "\n")


def to_json(report: Report) -> dict[str, Any]:
    """Converts a report to JSON.

    Args:
      report: the report.

    Returns:
      The fields of the report, and the values that follow from them.
    """
    return {
        **dataclasses.asdict(report),
        "occupied": report.occupied,
        "fits": report.occupied <= report.hbm_bytes,
        "step_seconds": report.roofline.step,
        "images_per_second": report.images_per_second,
    }


def step_report(
    experiment: Experiment, topology: Target, batch_per_chip: int | None, second_batch: int | None, *, kernels: bool
) -> Report:
    """Compiles the training step of an experiment, and reports on it.

    Args:
      experiment: the experiment.
      topology: the slice that the step runs on.
      batch_per_chip: patches on each chip; None takes `split_batch` of the experiment.
      second_batch: another number of patches on each chip. The step is also compiled with it, and the largest batch is
        extrapolated from both. None estimates the largest batch from one compilation.
      kernels: whether to find the cycles of the Pallas kernels, each of which takes a compilation.

    Returns:
      The report, with predictions for more chips.

    Raises:
      InputError: the experiment cannot run on this slice, the two batches are equal, or the program does not fit into
        the memory of a chip.
    """
    count = topology.device_count
    images = split_batch(experiment, count) if batch_per_chip is None else batch_per_chip
    experiment = dataclasses.replace(experiment, batch_size=images * count)
    experiment.check_devices(count)
    if second_batch == images:
        raise InputError(f"--second_batch must differ from the {images} images that are compiled first")
    devices = topology.devices()
    traced = trace_step(experiment, devices, experiment.batch_size)
    compiled = compile_traced(traced, topology)
    other = None
    if second_batch:
        other = compile_traced(trace_step(experiment, devices, second_batch * count), topology).memory
    largest = extrapolate_largest_batch(compiled.memory, images, other, second_batch, topology.chip.hbm_bytes)
    cycles = step_kernel_cycles(experiment, topology, images) if kernels and isinstance(topology, Topology) else None
    return _report(experiment, topology, count, images, traced, compiled, cycles, *largest)


def extrapolate_largest_batch(
    memory: dict[str, int], images: int, other: dict[str, int] | None, other_images: int | None, hbm_bytes: int
) -> tuple[int, str]:
    """Extrapolates the largest batch that fits on a chip, linearly in the number of images.

    Args:
      memory: the memory of the compiled step, under the keys of `program_cost.memory_bytes`.
      images: the number of images on each chip in that step.
      other: the memory of a second compiled step, or None.
      other_images: the number of images on each chip in the second step, or None.
      hbm_bytes: the HBM that a program can use, in bytes.

    Returns:
      The number of images, and a phrase that says how it was found.
    """
    if other is not None and other_images is not None:
        per_image = (occupied_bytes(memory) - occupied_bytes(other)) / (images - other_images)
        origin = f"from the line through {other_images} and {images} images, both compiled"
    else:
        # The state is donated to its result, so the arguments that are not aliased are the batch.
        per_image = (memory["temporaries"] + memory["arguments"] - memory["aliased"]) / images
        origin = "an estimate from one compilation, probably too low: temporaries are assumed to grow with the images"
    return largest_batch(hbm_bytes - (occupied_bytes(memory) - round(per_image * images)), per_image), origin


def inference_report(experiment: Experiment, topology: Target, height: int, width: int, *, kernels: bool) -> Report:
    """Compiles the inference of one image on one chip, and reports on it.

    Args:
      experiment: the experiment with the network.
      topology: the slice with the chip.
      height: the height of the LR image in pixels.
      width: the width of the LR image in pixels.
      kernels: whether to find the cycles of the Pallas kernels, each of which takes a compilation.

    Returns:
      The report, without a largest batch and predictions for more chips.

    Raises:
      InputError: the program does not fit into the memory of a chip.
    """
    traced = trace_inference(experiment, topology.devices()[0], height, width)
    compiled = compile_traced(traced, topology)
    cycles = None
    if kernels and isinstance(topology, Topology):
        cycles = inference_kernel_cycles(experiment, topology, height, width)
    return _report(experiment, topology, 1, 1, traced, compiled, cycles, None, "")


def split_batch(experiment: Experiment, chips: int) -> int:
    """Returns the number of patches on each chip.

    Args:
      experiment: the experiment. If its `batch_size` is smaller than the number of chips, it is taken as the batch of
        each chip; otherwise it is split over all chips.
      chips: the number of chips.

    Raises:
      InputError: the batch cannot be split evenly.
    """
    if experiment.batch_size < chips:
        return experiment.batch_size
    experiment.check_devices(chips)
    return experiment.batch_size // chips


def _report(
    experiment: Experiment,
    topology: Target,
    chips: int,
    images: int,
    traced: Any,
    compiled: Compiled,
    cycles_of_each: dict[str, int] | None,
    largest: int | None,
    largest_from: str,
) -> Report:
    cost = program_cost(compiled.hlo)
    cycles = None if isinstance(topology, Topology) else 0
    if cycles_of_each is not None and all(call.name in cycles_of_each for call in cost.kernels):
        cycles = sum(call.times * cycles_of_each[call.name] for call in cost.kernels)
    payload = sum(one.bytes * one.times for one in cost.collectives)
    network = sum(one.times * all_reduce_seconds(one.bytes, topology) for one in cost.collectives)
    flops = matrix_flops(traced.jaxpr.jaxpr)
    dtype = experiment.network.compute_dtype
    times = estimate(topology, cost, flops=flops, cycles=cost.xla_cycles + (cycles or 0), network=network, dtype=dtype)
    return Report(
        topology=topology.name,
        chips=chips,
        images=images,
        memory=compiled.memory,
        hbm_bytes=topology.chip.hbm_bytes,
        matrix_flops=flops,
        hbm_traffic=cost.hbm_bytes,
        xla_cycles=cost.xla_cycles,
        kernel_cycles=cycles,
        kernel_launches=None if isinstance(topology, Topology) else cost.kernel_launches,
        collectives=cost.collectives,
        compile_seconds=compiled.seconds,
        largest_batch=largest,
        largest_batch_from=largest_from,
        roofline=times,
        scaling=tuple(predict_scaling(times.computing, payload, topology)) if largest is not None else (),
    )


def _described(experiment: Experiment) -> str:
    network = experiment.network
    name = network.variant_name or "SeemoRe"
    return f"{name} ×{network.scale}, {network.compute_dtype}, precision {network.precision}"


def _parameter_bytes(experiment: Experiment) -> int:
    return sum(4 * leaf.size for leaf in jax.tree.leaves(nnx.state(SeemoRe.abstract(experiment.network))))


_ROWS: tuple[tuple[str, Callable[[Report], str]], ...] = (
    ("chips", lambda r: f"{r.chips}"),
    ("images for each chip", lambda r: f"{r.images}"),
    ("memory: arguments", lambda r: _gb(r.memory["arguments"])),
    ("… results (in the arguments' place)", lambda r: f"{_gb(r.memory['results'])} ({_gb(r.memory['aliased'])})"),
    ("… temporaries", lambda r: _gb(r.memory["temporaries"])),
    ("… code", lambda r: _gb(r.memory["code"])),
    ("… together, of what the chip has", lambda r: f"{_gb(r.occupied)} of {_gb(r.hbm_bytes)}"),
    ("fits", lambda r: "yes" if r.occupied <= r.hbm_bytes else "no"),
    ("largest batch for each chip", lambda r: "–" if r.largest_batch is None else f"{r.largest_batch:,}"),
    ("matrix FLOPs", lambda r: f"{r.matrix_flops / 1e9:,.0f} GFLOP"),
    ("HBM traffic", lambda r: _gb(r.hbm_traffic)),
    ("kernel launches", lambda r: "–" if r.kernel_launches is None else f"{r.kernel_launches:,}"),
    ("cycles: XLA", lambda r: f"{r.xla_cycles / 1e6:.1f} M" if r.kernel_launches is None else "–"),
    ("… kernels", lambda r: _kernel_cycles(r) if r.kernel_launches is None else "–"),
    ("collectives", lambda r: collectives_line(r.collectives)),
    ("compiled in", lambda r: f"{r.compile_seconds:.0f} s"),
    ("estimate: matrix units", lambda r: _ms(r.roofline.matrix)),
    ("… cycles", lambda r: _ms(r.roofline.cycles)),
    ("… HBM", lambda r: _ms(r.roofline.memory)),
    ("… launches", lambda r: _ms(r.roofline.launches)),
    ("… network", lambda r: _ms(r.roofline.network)),
    ("… **step**, limited by", lambda r: f"**{_ms(r.roofline.step)}**, {r.roofline.limit}"),
    ("… images/s", lambda r: f"{r.images_per_second:,.0f}"),
)


def _kernel_cycles(report: Report) -> str:
    return "not counted" if report.kernel_cycles is None else f"{report.kernel_cycles / 1e6:.1f} M"


def collectives_line(collectives: Sequence[Collective]) -> str:
    """Formats the communication of a program as one line.

    Args:
      collectives: the collectives of the program.

    Returns:
      Such as "1 all-reduce of 929,792 B", or "none".
    """
    return ", ".join(f"{one.times} {one.kind} of {one.bytes:,} B" for one in collectives) or "none"


def format_table(title: str, parameter_bytes: int, reports: Sequence[Report]) -> str:
    """Formats reports as a Markdown table with one column for each report, followed by the assumptions.

    Args:
      title: the first line.
      parameter_bytes: the size of the network's parameters in bytes.
      reports: the reports, at least one.

    Returns:
      The text, without a newline at the end.
    """
    lines = [
        title,
        "",
        "| per chip | " + " | ".join(report.topology for report in reports) + " |",
        "|---|" + "---|" * len(reports),
    ]
    lines += [f"| {name} | " + " | ".join(value(report) for report in reports) + " |" for name, value in _ROWS]
    lines += ["", f"Parameters: {parameter_bytes:,} B in float32."]
    origins = dict.fromkeys(report.largest_batch_from for report in reports)
    lines += [f"Largest batch: {origin}." for origin in origins if origin]
    lines += assumptions([report.topology for report in reports])
    if any(report.kernel_cycles is None for report in reports):
        lines.append("The cycles of the kernels are left out, so the estimate of cycles is a lower bound.")
    if any(target(report.topology).chip.devices > 1 for report in reports):
        lines.append("A TPU7x chip has two devices. Where the table says chip, it means one of them.")
    # Slices of the same kind of chip with the same batch on each chip have the same predictions.
    for report in {(report.topology.partition(":")[0], report.images): report for report in reports}.values():
        lines += _scaling_lines(report)
    return "\n".join(lines)


def _scaling_lines(report: Report) -> list[str]:
    if not report.scaling:
        return []
    lines = ["", f"Prediction, images on each chip kept at {report.images}, from {report.topology}:", ""]
    lines += ["| slice | chips | images in all | all-reduce | efficiency | images/s |", "|---|---|---|---|---|---|"]
    for one in report.scaling:
        total = report.images * one.chips * target(report.topology).chip.devices
        rate = total / (report.roofline.computing + one.network)
        lines.append(
            f"| {one.name} | {one.chips:,} | {total:,} | {_ms(one.network)} | {one.efficiency:.1%} | {rate:,.0f} |"
        )
    return lines


def _gb(count: int) -> str:
    return f"{count / 1e9:.3f} GB"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3f} ms"
