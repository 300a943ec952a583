"""If these tests fail, a kernel that computes wrong values on a machine is used there, or a correct one is not used."""

import dataclasses
import json
import logging
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import seemore_jax as sj
from seemore_jax.command_line import main
from seemore_jax.data import read_image, write_image
from seemore_jax.network.implementations import (
    chosen_implementation,
    comparison,
    cpu,
    cpu_operations,
    native,
    plain,
    self_check,
)
from seemore_jax.network.implementations.fused_operation import Arrays
from seemore_jax.training.experiment import Experiment
from seemore_jax.training.loop import train
from tests.support import tiny_config
from tests.support.training_runs import losses, random_dataset

CONFIG = sj.SeemoReConfig.variant("T", 2, embedding_dim=8, num_layers=1, recursive=1, global_kernel_size=3)
LR = jax.random.uniform(jax.random.key(0), (1, 9, 11, 3))

pytestmark = pytest.mark.needs("compiler")


@pytest.fixture(autouse=True)
def _unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Prepares a machine with compiled kernels on which no self-check has run."""
    assert native.available()
    monkeypatch.delenv("SEEMORE_SELF_CHECK")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _forget()
    yield
    _forget()


def _forget() -> None:
    """Clears the process's caches of verdicts, operations and compiled programs."""
    self_check._verdict.cache_clear()
    cpu_operations.operation.cache_clear()
    jax.clear_caches()


def break_kernel(monkeypatch: pytest.MonkeyPatch, name: str, kernel: str) -> None:
    """Replaces the forward or backward kernel of an operation by one whose results are too large by a hundredth."""
    operation = cpu_operations._OPERATIONS[name]
    right: Callable[..., Arrays] = getattr(operation, kernel)

    def wrong(*arrays: Any) -> Arrays:
        return tuple(1.01 * array for array in right(*arrays))

    changes: dict[str, Any] = {kernel: wrong}
    broken = dataclasses.replace(operation, **changes)
    monkeypatch.setitem(cpu_operations._OPERATIONS, name, broken)


def model(implementation: str = "auto") -> sj.SeemoRe:
    return sj.SeemoRe(dataclasses.replace(CONFIG, implementation=implementation), rngs=nnx.Rngs(1))


def gradient(model: sj.SeemoRe) -> nnx.State:
    graph, parameters = nnx.split(model)
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(nnx.merge(graph, p)(LR)))))(parameters)


def verdict_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "seemore-jax" / "checks").glob("*.json"))


def test_right_kernels_are_used_and_the_verdict_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen_implementation(CONFIG) is cpu.apply_network
    assert len(verdict_files(tmp_path)) == 1
    gradient(model())
    assert len(verdict_files(tmp_path)) == 2
    _forget()
    monkeypatch.setattr(self_check, "compare", lambda *_, **__: pytest.fail("compares again"))
    assert chosen_implementation(CONFIG) is cpu.apply_network
    more_layers = dataclasses.replace(CONFIG, num_layers=3, scale=4)
    assert chosen_implementation(more_layers) is cpu.apply_network, "the kernels are the same"


def test_every_expert_takes_part() -> None:
    random = np.random.default_rng(0)
    config = self_check._checked_config(sj.SeemoReConfig.variant("T", 4))
    graph, shapes = nnx.split(sj.SeemoRe.abstract(config))
    parameters = jax.tree_util.tree_map_with_path(lambda path, leaf: comparison._random(random, path, leaf), shapes)
    network = nnx.merge(graph, jax.device_put(parameters))
    images = jnp.asarray(comparison._images(random, config.num_experts))
    comparison._fit_router(network, images)
    _, routing = plain.apply_network(network, images)
    np.testing.assert_array_equal(routing.experts[:, 0, 0], [0, 1, 2])
    assert float(routing.probabilities.max(axis=-1).min()) > 0.5, "no ties"


@pytest.mark.parametrize("name", ["convolution", "low_rank_experts"])
def test_a_wrong_kernel_is_caught_in_python(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_kernel(monkeypatch, name, "forward")
    expected = jax.jit(model("plain"))(LR)
    with caplog.at_level(logging.WARNING, self_check.__name__):
        np.testing.assert_array_equal(jax.jit(model())(LR), expected)
    (record,) = caplog.records
    line = record.getMessage()
    assert "\n" not in line
    assert f"the values of {name} differ from the plain ones by 1.0e-02" in line
    assert native.cpu_name() in line
    with pytest.raises(sj.InputError, match=f"implementation=cpu: .*{name}.*implementation='plain'"):
        model("cpu")(LR)


@pytest.mark.thorough
def test_a_wrong_gradient_is_caught_and_the_plain_one_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_kernel(monkeypatch, "spatial_enhancement", "backward")
    expected = gradient(model("plain"))
    with caplog.at_level(logging.WARNING, self_check.__name__):
        found = gradient(model())
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4 * float(jnp.abs(theirs).max()))
    (record,) = caplog.records
    assert "the gradients of spatial_enhancement differ" in record.getMessage()
    with pytest.raises(sj.InputError, match="spatial_enhancement"):
        gradient(model("cpu"))


@pytest.mark.thorough
def test_a_wrong_kernel_is_caught_inside_the_first_jit_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    break_kernel(monkeypatch, "convolution", "forward")
    graph, parameters = nnx.split(model())
    upscaled = jax.jit(jax.vmap(lambda p, image: nnx.merge(graph, p)(image[None])[0], (None, 0)))(parameters, LR)
    np.testing.assert_allclose(upscaled, jax.jit(model("plain"))(LR), rtol=0, atol=1e-6)


@pytest.mark.thorough
def test_a_wrong_kernel_is_caught_by_upscale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_kernel(monkeypatch, "gated_feed_forward", "forward")
    photo = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    write_image(tmp_path / "photo.png", photo)
    sj.save(model(), tmp_path / "weights.safetensors")
    command = ["upscale", str(tmp_path / "photo.png"), "-o", str(tmp_path / "large.png"), "--quiet"]
    assert main([*command, "-m", str(tmp_path / "weights.safetensors")]) == 0
    assert "gated_feed_forward" in caplog.text
    np.testing.assert_array_equal(read_image(tmp_path / "large.png"), sj.upscale(model("plain"), photo))


@pytest.mark.thorough
def test_a_wrong_kernel_is_caught_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    break_kernel(monkeypatch, "low_rank_experts", "backward")
    random_dataset(tmp_path)
    found = {}
    for implementation in ("auto", "plain"):
        config = tiny_config.get_config()
        config.update({"data_dir": str(tmp_path), "num_steps": 3, "implementation": implementation, "num_workers": 0})
        assert train(Experiment.of(config), tmp_path / implementation) == 0
        found[implementation] = losses(tmp_path / implementation)
    assert "low_rank_experts" in caplog.text
    assert len(found["auto"]) == 3
    assert found["auto"] == pytest.approx(found["plain"], rel=1e-5)


def test_a_damaged_verdict_is_found_again(tmp_path: Path) -> None:
    chosen_implementation(CONFIG)
    (file,) = verdict_files(tmp_path)
    file.write_text("{")
    _forget()
    assert chosen_implementation(CONFIG) is cpu.apply_network
    assert file.read_text() != "{"


def test_an_error_of_a_kernel_is_a_failure_that_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(self_check, "compare", lambda *_, **__: 1 / 0)
    assert chosen_implementation(CONFIG) is plain.apply_network
    assert "they fail (division by zero)" in caplog.text
    assert not verdict_files(tmp_path)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, mine: float, plainly: float) -> None:
    """Makes the self-check believe that the device is a GPU, and that the implementations take these milliseconds."""
    device = types.SimpleNamespace(platform="gpu", device_kind="some GPU", client=jax.local_devices()[0].client)
    monkeypatch.setattr(self_check, "_device", lambda name: device)
    monkeypatch.setattr(self_check, "compare", lambda *_, **__: ({"values": 1e-7}, ""))
    monkeypatch.setattr(self_check, "median_times", lambda *_: {"cpu": mine, "plain": plainly})


@pytest.mark.usefixtures("unchecked")
def test_kernels_that_are_slower_on_a_gpu_are_only_used_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_a_gpu(monkeypatch, 5.0, 3.0)
    assert chosen_implementation(CONFIG) is plain.apply_network
    (record,) = caplog.records
    assert record.getMessage().endswith("not used: they take 5.00 ms where the plain network takes 3.00 ms on some GPU")
    assert chosen_implementation(dataclasses.replace(CONFIG, implementation="cpu")) is cpu.apply_network
    assert json.loads(verdict_files(tmp_path)[0].read_text())["times"] == {"cpu": 5.0, "plain": 3.0}
    _forget()
    monkeypatch.setattr(self_check, "median_times", lambda *_: pytest.fail("measures again"))
    assert chosen_implementation(CONFIG) is plain.apply_network


@pytest.mark.usefixtures("unchecked")
def test_kernels_that_are_faster_on_a_gpu_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, 3.0, 5.0)
    assert chosen_implementation(CONFIG) is cpu.apply_network


def test_the_check_of_kernels_without_gradients_calls_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients, it would compare the plain network with itself."""
    asked: list[bool] = []

    def compare(*_: Any, gradients: bool) -> tuple[dict[str, float], str]:
        asked.append(gradients)
        return {"values": 0.0}, ""

    monkeypatch.setattr(self_check, "compare", compare)
    for name in ("gpu", "tpu"):
        self_check.verdict(name, plain.apply_network, CONFIG, gradients=True)
    assert asked == [False, True]


class Client:
    """Replacement of the coordination service that contains the verdict of another process."""

    def __init__(self, other: self_check.Verdict) -> None:
        self.verdicts = {"1": dataclasses.asdict(other)}

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.verdicts[key.rsplit("/", 1)[1]] = json.loads(value)

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        return json.dumps(self.verdicts[key.rsplit("/", 1)[1]])


@pytest.mark.parametrize("passed", [True, False])
def test_all_processes_take_the_same_decision(
    passed: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = self_check.Verdict(passed, "a device", {}, "the values of a block differ", 1.0)
    client = Client(other)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("seemore_jax.system.processes.coordination_client", lambda: client)
    assert (chosen_implementation(CONFIG) is cpu.apply_network) == passed
    assert client.verdicts["0"]["passed"], "this process's own"
    assert ("on process 1, the values of a block differ on a device" in caplog.text) == (not passed)


def test_a_process_without_kernels_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(self_check.Verdict(True, "a device", {}, "", 1.0))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr("seemore_jax.system.processes.coordination_client", lambda: client)
    monkeypatch.setattr(native, "available", lambda: False)
    assert chosen_implementation(CONFIG) is plain.apply_network
    assert not client.verdicts["0"]["passed"], "the other process would wait for this one"


def test_nothing_but_numbers_counts_as_equal() -> None:
    assert comparison._relative([1.0, float("nan")], [1.0, 2.0]) == float("inf")
    assert comparison._relative([1.0, 2.0], [1.0, 2.0]) == 0


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEMORE_SELF_CHECK", "0")
    monkeypatch.setattr(self_check, "compare", lambda *_, **__: pytest.fail("compares"))
    assert chosen_implementation(CONFIG) is cpu.apply_network
