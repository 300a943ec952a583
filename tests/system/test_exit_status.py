"""If these fail, launchers start again what fails the same way each time, or give up what a lost host has ended."""

from pathlib import Path

import jax
import pytest

from seemore_jax import InputError
from seemore_jax.system import exit_status

CASES: list[tuple[Exception, int, str]] = [
    (InputError("x.png: not an image"), 2, "error: x.png: not an image"),
    (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device"),
    (MemoryError(), 2, "error: out of memory"),
    (
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nmore"),
        2,
        "error: out of memory on the device (RESOURCE",
    ),
    (ConnectionResetError(104, "Connection reset by peer"), 1, "error: [Errno 104] Connection reset by peer"),
    (TimeoutError("bucket does not answer"), 1, "error: bucket does not answer"),
    # Those that only a traceback explains.
    (jax.errors.JaxRuntimeError("INTERNAL: connection closed by peer"), 1, "Traceback"),
    (RuntimeError("worker 3 exited"), 1, "Traceback"),
    (TypeError("unexpected argument"), 2, "Traceback"),
    (KeyError("topk"), 2, "Traceback"),
    (NotImplementedError("no such kernel"), 2, "Traceback"),
]


@pytest.mark.parametrize(("error", "status", "line"), CASES, ids=lambda value: type(value).__name__)
def test_an_error_has_its_status(error: Exception, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    assert exit_status.exit_status(fail) == status
    complaint = capsys.readouterr().err
    assert complaint.startswith(line)
    if line != "Traceback":
        assert complaint.count("\n") == 1


def test_the_table_in_the_documentation_is_that_of_the_module() -> None:
    rows = [line for line in (exit_status.__doc__ or "").splitlines() if line.startswith("|")]
    assert len(rows) == 7
    assert "\n".join(rows) in (Path(__file__).parents[2] / "docs" / "pods.md").read_text()
