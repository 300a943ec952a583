"""Records of a run: TensorBoard events, a history of figures, its configuration, and a plot."""

import importlib.metadata
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from seemore_jax.data.imresize import imresize
from seemore_jax.evaluation.benchmark import Scores
from seemore_jax.system.errors import InputError
from seemore_jax.system.files import AnyPath, atomic_write, on_disk, with_file_name
from seemore_jax.training.experiment import Experiment, described_network
from seemore_jax.training.step import Metrics
from seemore_jax.training.validation import ValidationImage
from seemore_jax.version import __version__

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy")


class Records:
    """The records of a run in `workdir`. Only process 0 has them.

    Args:
      workdir: the run's folder. If it is in an object store, where files cannot be appended to, the records are written
        into a temporary folder, and `upload` copies them.
      first_step: the step after which the run continues. Records of later steps, from before an interruption, are
        dropped.

    Raises:
      OSError: the folder cannot be written.
    """

    def __init__(self, workdir: AnyPath, first_step: int) -> None:
        self._workdir = workdir
        self._temporary = None if on_disk(workdir) else tempfile.TemporaryDirectory()
        self._local = Path(self._temporary.name if self._temporary else workdir)
        self._history = self._local / "history.jsonl"
        kept = [entry for entry in read_history(workdir / "history.jsonl") if entry["step"] <= first_step]
        with atomic_write(self._history) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        board = self._local / "tensorboard"
        board.mkdir(exist_ok=True)
        # Not SummaryWriter: when the disk is full, its thread ends without a message, and the run waits for ever.
        self._board = EventsWriter(str(board / "events"))
        self._board.write_event(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))

    def training(self, step: int, metrics: Metrics, learning_rate: float, images_per_second: float) -> None:
        """Records loss, learning rate, gradient norm, speed and the use of the experts in one step.

        Args:
          step: number of the step, from 1.
          metrics: what the step reported.
          learning_rate: the rate that the step used.
          images_per_second: speed of all processes together since the last record.
        """
        scalars = {
            "loss/total": float(metrics.loss.total),
            **{f"loss/{name}": float(term) for name, term in metrics.loss._asdict().items()},
            "learning_rate": learning_rate,
            "gradient_norm": float(metrics.gradient_norm),
            "images_per_second": images_per_second,
        }
        self._write(step, scalars)
        for (layer, expert), share in np.ndenumerate(np.asarray(metrics.expert_usage)):
            self._show(step, summary.scalar(f"expert_usage/layer_{layer}/expert_{expert}", share))

    def validation(self, step: int, scores: dict[str, Scores], image: ValidationImage) -> None:
        """Records the scores on each validation set, and one image: LR, bicubic, SR and HR.

        Args:
          step: number of steps done.
          scores: mean scores by the name of the set.
          image: the image to show.
        """
        self._write(step, {f"psnr/{name}": s.psnr for name, s in scores.items()})
        self._write(step, {f"ssim/{name}": s.ssim for name, s in scores.items()})
        scale = image.hr.shape[0] // image.lr.shape[0]
        versions = {"lr": image.lr, "bicubic": imresize(image.lr, scale), "sr": image.sr, "hr": image.hr}
        for name, pixels in versions.items():
            self._show(step, summary.image(name, pixels, dataformats="HWC"))

    def close(self) -> None:
        """Writes pending records and the plot of the curves."""
        history = read_history(self._history)
        if history:
            with atomic_write(self._local / "curves.png") as temporary:
                curves(history).savefig(temporary, dpi=100)
        self.upload()
        self._board.close()
        if self._temporary:
            self._temporary.cleanup()

    def upload(self) -> None:
        """Copies the records to the workdir if that is in an object store.

        It is called with each checkpoint, so that a run that continues from a checkpoint has its records.
        """
        if self._temporary:
            self._board.flush()
            for file in self._local.rglob("*"):
                if file.is_file():
                    target = self._workdir / file.relative_to(self._local).as_posix()
                    target.write_bytes(file.read_bytes())

    def _write(self, step: int, scalars: dict[str, float]) -> None:
        with with_file_name(self._history), self._history.open("a") as file:
            file.write(json.dumps({"step": step, **scalars}) + "\n")
        for name, value in scalars.items():
            self._show(step, summary.scalar(name, value))

    def _show(self, step: int, what: Any) -> None:
        """Writes a summary for TensorBoard."""
        with with_file_name(self._local / "tensorboard"):
            self._board.write_event(Event(step=step, wall_time=time.time(), summary=what))


def read_history(path: AnyPath) -> list[dict[str, float]]:
    """Reads the entries of a `history.jsonl`. Leaves out a last line that an interruption cut off.

    Args:
      path: the file, which may be missing.
    """
    if not path.exists():
        return []
    entries = []
    for line in path.read_text().splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def curves(history: list[dict[str, float]]) -> Figure:
    """Plots loss and validation PSNR over the steps.

    Args:
      history: entries as `read_history` returns them.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    loss_axis, psnr_axis = figure.subplots(1, 2)
    for axis, prefix, label in ((loss_axis, "loss/", "loss"), (psnr_axis, "psnr/", "PSNR (dB)")):
        for name in sorted({name for entry in history for name in entry if name.startswith(prefix)}):
            points = [(entry["step"], entry[name]) for entry in history if name in entry]
            axis.plot(*zip(*points, strict=True), label=name.removeprefix(prefix))
        axis.set(xlabel="step", ylabel=label)
        if axis.lines:
            axis.legend()
        axis.grid(alpha=0.3)
    loss_axis.set_yscale("log")
    return figure


def write_setup(workdir: AnyPath, experiment: Experiment) -> None:
    """Writes `config.json`, the settings of the experiment, and `versions.json`, with the devices; replaces older ones.

    Args:
      workdir: the run's folder.
      experiment: the experiment.

    Raises:
      InputError: the folder holds a run of another network.
      OSError: the folder cannot be written.
    """
    path = workdir / "config.json"
    if path.exists():
        before = described_network(json.loads(path.read_text())).to_dict()
        for field, value in experiment.network.to_dict().items():
            if before[field] != value:
                raise InputError(
                    f"{workdir}: holds a run of a network with {field}={before[field]}, not {value}; "
                    "choose another workdir"
                )
    versions = {package: importlib.metadata.version(package) for package in _PACKAGES}
    versions |= {"seemore-jax": __version__, "python": platform.python_version()}
    devices = {"devices": [str(device.device_kind) for device in jax.devices()]}
    for name, content in (("config.json", experiment.settings), ("versions.json", {**versions, **devices})):
        with atomic_write(workdir / name) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n")
