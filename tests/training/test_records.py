"""If these fail, a run does not leave the records that it promises, or leaves those of steps that were lost."""

import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from seemore_jax import InputError, imresize
from seemore_jax.configs.release import recipe
from seemore_jax.data import read_image
from seemore_jax.evaluation.benchmark import Scores
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loss import LossTerms
from seemore_jax.training.records import Records, read_history, write_setup
from seemore_jax.training.step import Metrics
from seemore_jax.training.validation import ValidationImage

RNG = np.random.default_rng(0)
USAGE = np.array([[0.5, 0.25, 0.25], [0, 1, 0]], np.float32)


def metrics(l1: float) -> Metrics:
    loss = LossTerms(jnp.asarray(l1), jnp.asarray(2.0))
    return Metrics(loss, gradient_norm=jnp.asarray(3.0), expert_usage=jnp.asarray(USAGE), stop=jnp.asarray(0.0))


def random_image(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def events(workdir: Path) -> Iterator[Any]:
    """What TensorBoard would read: each record is a length, its checksum, a message, its checksum."""
    for file in sorted((workdir / "tensorboard").iterdir()):
        content = memoryview(file.read_bytes())
        while content:
            (length,) = struct.unpack_from("<Q", content)
            yield Event.FromString(bytes(content[12 : 12 + length]))
            content = content[12 + length + 4 :]


def summaries(workdir: Path) -> dict[tuple[str, int], Any]:
    return {(value.tag, event.step): value for event in events(workdir) for value in event.summary.value}


def test_tensorboard_has_the_figures_of_each_step(tmp_path: Path) -> None:
    records = Records(tmp_path, 0)
    for step in (1, 2):
        records.training(step, metrics(l1=1.0 * step), learning_rate=1e-3 / step, images_per_second=50.0)
    records.close()
    scalars = {key: value.simple_value for key, value in summaries(tmp_path).items()}
    expected = {
        "loss/total": 1.2,
        "loss/l1": 1.0,
        "loss/fft": 2.0,
        "learning_rate": 1e-3,
        "gradient_norm": 3.0,
        "images_per_second": 50.0,
        **{f"expert_usage/layer_{layer}/expert_{expert}": share for (layer, expert), share in np.ndenumerate(USAGE)},
    }
    assert {tag: value for (tag, step), value in scalars.items() if step == 1} == pytest.approx(expected)
    assert scalars["loss/l1", 2] == 2
    assert scalars["learning_rate", 2] == pytest.approx(5e-4)


def test_tensorboard_has_scores_and_images_of_validations(tmp_path: Path) -> None:
    example = ValidationImage(lr=random_image(9, 8), hr=random_image(18, 16), sr=random_image(18, 16))
    records = Records(tmp_path, 0)
    records.validation(7, {"Set5": Scores(30.5, 0.9), "Set14": Scores(28.0, 0.75)}, example)
    records.close()
    found = summaries(tmp_path)
    scores = {"psnr/Set5": 30.5, "psnr/Set14": 28.0, "ssim/Set5": 0.9, "ssim/Set14": 0.75}
    for name, value in scores.items():
        assert found[name, 7].simple_value == pytest.approx(value)
    images = {"lr": example.lr, "bicubic": imresize(example.lr, 2), "sr": example.sr, "hr": example.hr}
    for name, image in images.items():
        stored = Image.open(io.BytesIO(found[name, 7].image.encoded_image_string))
        np.testing.assert_array_equal(np.asarray(stored), image, err_msg=name)
    assert len(found) == len(scores) + len(images)
    assert {name: value for entry in read_history(tmp_path / "history.jsonl") for name, value in entry.items()} == {
        "step": 7,
        **scores,
    }


def test_steps_that_were_lost_leave_the_records(tmp_path: Path) -> None:
    """Killed while it wrote about step 5, a run goes on from the checkpoint of step 3."""
    records = Records(tmp_path, 0)
    for step in range(1, 5):
        records.training(step, metrics(l1=0.5), 1e-3, 50.0)
    records.close()
    history = tmp_path / "history.jsonl"
    with history.open("a") as file:
        file.write(json.dumps({"step": 5, "loss/total": 0.1})[:-4])
    assert [entry["step"] for entry in read_history(history)] == [1, 2, 3, 4]

    records = Records(tmp_path, 3)
    assert [entry["step"] for entry in read_history(history)] == [1, 2, 3]
    records.training(4, metrics(l1=0.25), 1e-3, 50.0)
    records.close()
    assert [(entry["step"], entry["loss/l1"]) for entry in read_history(history)] == [
        (1, 0.5),
        (2, 0.5),
        (3, 0.5),
        (4, 0.25),
    ]
    # TensorBoard drops what it has from this step on.
    starts = [event.step for event in events(tmp_path) if event.session_log.status == SessionLog.START]
    assert starts[-1] == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_to_be_that_of_the_run(tmp_path: Path) -> None:
    records = Records(tmp_path, first_step=0)
    (tmp_path / "history.jsonl").unlink()
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*history\.jsonl"):
        records.training(1, metrics(0.5), learning_rate=1e-3, images_per_second=2.0)
    (tmp_path / "history.jsonl").unlink()
    records.close()


def test_curves_are_drawn_of_whatever_there_is(tmp_path: Path) -> None:
    Records(tmp_path, 0).close()
    assert not (tmp_path / "curves.png").exists()
    records = Records(tmp_path, 0)
    records.training(1, metrics(l1=0.5), 1e-3, 50.0)
    records.close()
    only_losses = read_image(tmp_path / "curves.png")
    records = Records(tmp_path, 1)
    example = ValidationImage(lr=random_image(4, 4), hr=random_image(8, 8), sr=random_image(8, 8))
    for step in (2, 4):
        records.training(step, metrics(l1=1 / step), 1e-3, 50.0)
        records.validation(step, {"Set5": Scores(30.0 + step, 0.9)}, example)
    records.close()
    both = read_image(tmp_path / "curves.png")
    assert both.shape == only_losses.shape == (400, 900, 4)
    for plot in (both, only_losses):
        assert len(np.unique(plot[:, :450].reshape(-1, 4), axis=0)) > 10  # losses on the left
    assert (both[:, 450:] != only_losses[:, 450:]).any()  # and PSNR on the right


def test_a_run_of_the_same_network_goes_on_however_that_was_written(tmp_path: Path) -> None:
    """Before, `architecture` had only the fields that differ from the variant."""
    config = recipe("T", 2)
    before = json.loads(config.to_json_best_effort())
    for architecture in ({}, {"topk": 1}, before["architecture"]):
        (tmp_path / "config.json").write_text(json.dumps({**before, "architecture": architecture}))
        write_setup(tmp_path, Experiment.of(config))
    config.architecture.topk = 2
    with pytest.raises(InputError, match=r"holds a run of a network with topk=1, not 2; choose another workdir"):
        write_setup(tmp_path, Experiment.of(config))
    config = recipe("B", 2)
    with pytest.raises(InputError, match=r"holds a run of a network with num_layers=6, not 8"):
        write_setup(tmp_path, Experiment.of(config))
