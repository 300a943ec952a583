"""If these fail, `compile` prints wrong figures, or a wrong input does not end in one line and status 2."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest

from seemore_jax.ahead_of_time import report as module
from seemore_jax.ahead_of_time.program_cost import Collective
from seemore_jax.ahead_of_time.report import (
    Report,
    extrapolate_largest_batch,
    format_table,
    occupied_bytes,
    split_batch,
    to_json,
)
from seemore_jax.ahead_of_time.roofline import Roofline, predict_scaling
from seemore_jax.command_line import main
from seemore_jax.configs.release import recipe
from seemore_jax.system.errors import InputError
from seemore_jax.training.experiment import Experiment, read_experiment

# ml_collections loads configuration files with a deprecated function.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = str(Path(__file__).parents[2] / "configs" / "seemore_t_x4.py")
MEMORY = {"arguments": 16_000_000, "results": 9_000_000, "aliased": 9_000_000, "temporaries": 10**9, "code": 50_000_000}


def report(memory: dict[str, int] = MEMORY, kernel_cycles: int | None = 33_000_000) -> Report:
    return Report(
        topology="v5e:2x4",
        chips=8,
        images=32,
        memory=memory,
        hbm_bytes=16_000_000_000,
        matrix_flops=2 * 10**11,
        hbm_traffic=2_100_000_000,
        xla_cycles=12_000_000,
        kernel_cycles=kernel_cycles,
        kernel_launches=None,
        collectives=(Collective("all-reduce", 929_792, 1),),
        compile_seconds=70.0,
        largest_batch=480,
        largest_batch_from="estimate",
        roofline=Roofline(0.001, 0.030, 0.0026, 0.00002),
        scaling=tuple(predict_scaling(0.030, 929_792, "v5e")),
    )


def test_results_in_place_of_arguments_take_no_memory() -> None:
    assert occupied_bytes(MEMORY) == 16_000_000 + 10**9 + 50_000_000
    assert occupied_bytes({**MEMORY, "aliased": 0}) == 16_000_000 + 9_000_000 + 10**9 + 50_000_000


def test_the_table_has_a_column_for_each_report_and_says_what_it_assumes() -> None:
    large = report({**MEMORY, "temporaries": 17 * 10**9}, kernel_cycles=None)
    lines = format_table("T ×4", 927_216, [report(), large]).splitlines()
    assert lines[2] == "| per chip | v5e:2x4 | v5e:2x4 |"
    for row in (
        "| … together, of what the chip has | 1.066 GB of 16.000 GB | 17.066 GB of 16.000 GB |",
        "| fits | yes | no |",
        "| … kernels | 33.0 M | not counted |",
        "| collectives | 1 all-reduce of 929,792 B | 1 all-reduce of 929,792 B |",
        "| … **step**, limited by | **30.020 ms**, cycles | **30.020 ms**, cycles |",
        "| … images/s | 8,528 | 8,528 |",
    ):
        assert row in lines
    text = "\n".join(lines)
    assert "Nothing was measured on a TPU." in text
    assert "left out" in text
    assert "left out" not in format_table("T ×4", 927_216, [report()])
    assert lines.count("| v5e:2x4 | 8 | 256 | 0.029 ms | 99.9% | 8,525 |") == 1


def test_json_has_what_follows_from_the_figures() -> None:
    figures = json.loads(json.dumps(to_json(report())))
    assert figures["fits"]
    assert figures["occupied"] == 1_066_000_000
    assert figures["images_per_second"] == pytest.approx(32 * 8 / 0.03002)
    assert figures["collectives"] == [{"kind": "all-reduce", "bytes": 929_792, "times": 1}]


def test_a_batch_is_split_or_is_each_chips_or_is_refused() -> None:
    config = Experiment.of(recipe("T", 4))
    assert split_batch(config, 8) == 4
    assert split_batch(config, 256) == 32
    config = dataclasses.replace(config, batch_size=300)
    with pytest.raises(InputError, match="multiple of 256"):
        split_batch(config, 256)


def test_the_largest_batch_is_extrapolated_as_it_says() -> None:
    """Returns the memory of a program: 1 GB for any batch, and 0.25 GB for each image, of which 0.05 are the input."""

    def memory(images: int) -> dict[str, int]:
        sizes = {"arguments": 5 * 10**7 * images, "temporaries": 10**9 + 2 * 10**8 * images}
        return sizes | {"results": 0, "aliased": 0, "code": 0}

    largest, origin = extrapolate_largest_batch(memory(16), 16, memory(8), 8, 16 * 10**9)
    assert (largest, "line through 8 and 16" in origin) == (60, True)
    largest, origin = extrapolate_largest_batch(memory(16), 16, None, None, 16 * 10**9)
    assert (largest, "estimate" in origin) == (int(16e9 / (5e9 / 16)), True)


# The command line.


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["compile", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("name", ["v5e", "v7:2x2", "v5e:3x5", "v5p:16x16", ""])
def test_an_unknown_topology_lists_those_that_are_known(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = complaint(capsys, f"--config={CONFIG}", f"--topology={name}")
    for known in ("v4:", "v5e: 1x1", "v5p: 2x2x1", "v6e:", "16x16x16", "h100:8x4", "rtx4090"):
        assert known in error


def test_without_libtpu_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install 'libtpu==" in complaint(capsys, f"--config={CONFIG}", "--topology=v5e:2x4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=missing.py",), "missing.py"),
        ((f"--config={CONFIG}", "--config.no_such_field=1"), "no_such_field"),
        ((f"--config={CONFIG}", "--config.batch_size=many"), "batch_size"),
        ((f"--config={CONFIG}", "--surplus"), "surplus"),
        ((f"--config={CONFIG}", "--config.batch_size=300"), "multiple of 256"),
        ((f"--config={CONFIG}", "--second_batch=32"), "differ from the 32"),
    ],
)
def test_wrong_experiments_are_one_line(
    arguments: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "require_compiler", lambda one: None)
    assert message in complaint(capsys, *arguments, "--topology=v5e:16x16")


def test_other_commands_take_no_unknown_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "T-x4", "--config.batch_size=3"])
    assert "unrecognized arguments" in capsys.readouterr().err


def test_overrides_reach_the_experiment() -> None:
    config = read_experiment(CONFIG, ["--config.batch_size=64", "--config.compute_dtype=bfloat16"])
    assert config.batch_size == 64
    assert config.network.compute_dtype == "bfloat16"
