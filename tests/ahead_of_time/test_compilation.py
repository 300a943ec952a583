"""If these fail, a program that the TPU's compiler refuses ends in a traceback, or in advice that does not help."""

import subprocess
import types
from typing import Any

import jax
import pytest

from seemore_jax.ahead_of_time import compilation
from seemore_jax.ahead_of_time.topologies import Topology
from seemore_jax.system.errors import InputError
from tests.support.steps_ahead import experiment


class Refused:
    """Stands for a traced program that the compiler refuses with a message."""

    def __init__(self, message: str) -> None:
        self.message = message

    def lower(self) -> "Refused":
        return self

    def as_text(self) -> str:
        return self.message

    def compile(self, compiler_options: Any) -> Any:
        raise jax.errors.JaxRuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, 20G of 15G\nmore", "take a smaller batch"),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 19.24M of 16.00M vmem.\nmore", "patch_size"),
        ("INTERNAL: Mosaic failed to compile TPU kernel\nmore", "--config.implementation=plain"),
    ],
)
def test_what_the_compiler_refuses_is_one_line_with_advice(
    message: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compilation, "_key", lambda *_: "no such result")
    with pytest.raises(InputError, match=advice) as refused:
        compilation.compile_traced(Refused(message), Topology("v4:2x2x1"))
    assert "\n" not in str(refused.value)
    assert message.splitlines()[0] in str(refused.value)


def test_a_kernel_that_is_refused_by_itself_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = subprocess.CompletedProcess([], 1, "", "Traceback\n  of many lines\nJaxRuntimeError: too large\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    with pytest.raises(InputError, match="JaxRuntimeError: too large; --no_kernels") as error:
        compilation._analyse_in_another_process(b"", Topology("v4:2x2x1"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "analysed"), [("v4:2x2x1", False), ("tpu7x:2x2x1", False), ("v5e:1x1", True)])
def test_kernels_are_analysed_where_libtpu_can(name: str, analysed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, `compile` ends with an error for every TPU v4, whose kernels libtpu compiles but cannot analyse."""

    def run(*_: Any, env: dict[str, str], **__: Any) -> Any:
        assert ("LIBTPU_INIT_ARGS" in env) == analysed
        return subprocess.CompletedProcess([], 0, "null\n", "")

    monkeypatch.delenv("LIBTPU_INIT_ARGS", raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    assert compilation._analyse_in_another_process(b"", Topology(name)) is None


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5p:2x2x1", "tpu7x:2x2x1"])
def test_a_report_compiles_no_kernel_that_cannot_be_analysed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise, the report for a TPU v4 compiles kernels for nothing, and that for a v5p adds up wrong cycles."""
    monkeypatch.setattr(compilation, "kernel_cycles", None)
    assert compilation.step_kernel_cycles(experiment(4), Topology(name), 32) == {}
    assert compilation.inference_kernel_cycles(experiment(4), Topology(name), 180, 320) == {}


@pytest.mark.parametrize(("height", "width"), [(180, 320), (160, 128), (64, 64), (20, 512), (97, 131)])
def test_the_cycles_of_an_image_are_a_line_through_those_of_lower_images(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise, the report of an image of usual size takes more memory than a machine has, or has wrong cycles."""
    analysed = []

    def cycles(height: int, *_: Any) -> dict[str, int]:
        analysed.append(height)
        padded = height * width % 1024 > 0
        return {"kernel": 100 + (7 + padded) * -(-height * width // 1024)}

    traced = types.SimpleNamespace
    monkeypatch.setattr(compilation, "trace_inference", lambda *a: traced(jaxpr=traced(jaxpr=a[2])))
    monkeypatch.setattr(compilation, "kernel_cycles", cycles)
    monkeypatch.setattr(Topology, "devices", lambda _: [None])
    found = compilation.inference_kernel_cycles(experiment(4), Topology("v5e:1x1"), height, width)
    assert max(analysed) < height or analysed == [height]
    assert found == cycles(height)
