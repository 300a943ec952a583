"""If these fail, the table of all networks, TPUs and GPUs leaves out a combination, or hides that one was refused."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compiled_networks

REPORT = {
    "roofline": {"matrix": 0.001, "cycles": 0.04, "memory": 0.002, "launches": 0.0, "network": 0.0},
    "kernel_cycles": 30_000_000,
    "images": 32,
    "step_seconds": 0.04,
    "largest_batch": 1234,
    "fits": True,
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces the compilation: B is refused, all others get a report, on v4 without kernels. Returns the commands."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if "_b_" in command[4]:
            return subprocess.CompletedProcess(command, 2, "", "a warning\nerror: does not fit\n")
        (report,) = [Path(part.removeprefix("--json=")) for part in command if part.startswith("--json=")]
        known = {} if "--topology=v4:2x2x1" not in command else {"kernel_cycles": None}
        report.write_text(json.dumps([REPORT | known]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_the_table_accounts_for_every_combination_and_goes_on_where_it_ended(
    commands: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def printed(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["compiled_networks", f"--results={tmp_path}", *arguments])
        compiled_networks.main()
        return capsys.readouterr().out

    printed("--networks", "T-x4", "B-x4", "--types", "bfloat16", "--chips", "v5e", "v4")
    assert len(commands) == 4
    assert {"--topology=v5e:2x4", "--config.precision=default", "--batch_per_chip=32"} <= set(commands[0])
    text = printed("--networks", "T-x4", "B-x4", "L-x2", "--types", "bfloat16", "--chips", "v5e", "v4")
    assert len(commands) == 8, "what was refused runs again; what has run does not"
    assert "| T-x4 | bfloat16 | fits, 1,234, cycles, 800/s | fits, 1,234, cycles, ≤ 800/s |" in text
    assert "| B-x4 | bfloat16 | refused | refused |" in text
    assert "B-x4_bfloat16_v4_32x64: error: does not fit" in text
    assert "6 of 6 combinations have run." in text
    assert f"| T-x4 | float32 |{' not run |' * 8}" in printed("--table")
    assert "6 of 144 combinations have run." in printed("--table")
