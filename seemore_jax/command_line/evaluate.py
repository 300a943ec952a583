"""Evaluates weights, or bicubic, on benchmark sets.

seemore-jax evaluate --config=seemore_t_x4 --weights=FILE --data=DIR[,DIR...] --output=DIR

The config is the name of a published configuration, or the path of a file. Images are spread over all devices; of
several processes, all get the same arguments, and how to join as in `train`. In a checkout, `python eval.py` is the
same.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from seemore_jax.command_line.scripts import process_flags, run_script
from seemore_jax.data.degradation import FixedDegradation
from seemore_jax.data.image_sets import find_image_sets
from seemore_jax.evaluation.benchmark import BICUBIC, Upscaler, bicubic_upscaler
from seemore_jax.evaluation.report import evaluate_to_folder, set_table
from seemore_jax.inference import upscale
from seemore_jax.network import SeemoReConfig
from seemore_jax.network.implementations import chosen_implementation
from seemore_jax.porting import load
from seemore_jax.system.compilation_cache import use_compilation_cache
from seemore_jax.system.errors import InputError
from seemore_jax.system.process_monitor import monitored
from seemore_jax.training.experiment import network_of

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment: a name such as seemore_t_x4, or a file.")
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "Weights file or directory, or 'bicubic' for the baseline alone.", required=True
)
_DATA = flags.DEFINE_list(
    "data", None, "Folders: flat ones of images, sets (HR/, LR_bicubic/X4/), folders of sets.", required=True
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "Folder for the SR images, results.json and comparison.png.", required=True
)
_TTA = flags.DEFINE_boolean("tta", False, "Average over eight flips and transposes (self-ensemble).")
_DEGRADATION = flags.DEFINE_string(
    "degradation", "bicubic", "Of the LR images: bicubic, or jpeg:QUALITY, which stores them as JPEG (4:2:0) first."
)
_join_processes = process_flags()
flags.mark_flag_as_required("config")


def main(arguments: Sequence[str] = sys.argv) -> None:
    """Runs the command, and exits with its status.

    Args:
      arguments: the name of the program, and the flags.
    """
    run_script(_run, arguments, sys.modules[__name__])


def _run() -> None:
    """Evaluates, prints the table, and writes the output folder."""
    use_compilation_cache()
    _join_processes()
    with monitored("start all processes again"):
        _evaluate(_CONFIG.value)


def _evaluate(config: ConfigDict) -> None:
    expected = network_of(config)  # raises for a wrong scale or variant before anything else
    degradation = FixedDegradation.of(_DEGRADATION.value)
    sets = [image_set.degraded(degradation) for image_set in find_image_sets(_DATA.value, config.scale)]
    method, upscaler = _upscaler(expected, config.variant)
    results = evaluate_to_folder(sets, config.scale, upscaler, method, _WEIGHTS.value, Path(_OUTPUT.value))
    if jax.process_index() > 0:
        return
    print(f"PSNR (dB) / SSIM of the luma, ×{config.scale}")
    print(set_table(results, method))
    print(f"SR images, results.json and comparison.png are in {_OUTPUT.value}")


def _upscaler(expected: SeemoReConfig, variant: str) -> tuple[str, Upscaler]:
    if _WEIGHTS.value == BICUBIC:
        if _TTA.value:
            raise InputError("--tta: bicubic gives the same for all flips and transposes")
        return BICUBIC, bicubic_upscaler(expected.scale)
    model = load(_WEIGHTS.value, compute_dtype=expected.compute_dtype, precision=expected.precision)
    if model.config.to_dict() != expected.to_dict():
        found = f"SeemoRe-{model.config.variant_name or '(none published)'} ×{model.config.scale}"
        raise InputError(
            f"{_WEIGHTS.value}: holds a {found}, but the config is of SeemoRe-{variant} ×{expected.scale}; "
            "give the config that belongs to the weights"
        )
    # All processes agree on the implementation, also those that get no image.
    chosen_implementation(model.config)
    ensemble = _TTA.value
    name = f"SeemoRe-{variant}" + ("+" if ensemble else "")  # the literature's sign for self-ensemble
    return name, lambda lr: upscale(model, lr, ensemble=ensemble)
