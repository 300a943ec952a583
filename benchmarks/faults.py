"""What goes wrong on a pod, done on purpose to several processes on this machine: does the run survive it?

    python -m benchmarks.faults --output=FILE.json [--cases killed,full_disk]

Starts `train.py` as a user does, on a small network and random images. After each fault all processes have to end
within a minute with a line that says what happened, or to wait, where that is right; started again, the run has to end
with the losses of one that nothing happened to. Exits with status 1 if anything else is seen.

As root, the workdir of two cases is a small file system of its own. Without, the full disk is a limit on the size of
files, and the read-only workdir has no permission to write.
"""

import argparse
import contextlib
import dataclasses
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks import timing
from tests.support.training_runs import (
    checkpoint_steps,
    damage,
    free_address,
    keep_compiled,
    losses,
    random_dataset,
    start,
    wait_for,
)

STEPS = 60
INJECTED_AT = (4, 25)  # steps; the first checkpoint is that of step 3
FIELDS = (f"num_steps={STEPS}", "checkpoint_every=3", "ema_decay=0.9")
ALL_END_WITHIN = 60.0  # seconds
STARTS_WITHIN = 1200.0  # seconds; on a busy machine compilation takes minutes
# Small enough to be filled in an instant, large enough for four checkpoints.
TMPFS = "size=64m"


@dataclasses.dataclass
class Outcome:
    """What was done and what was seen.

    Attributes:
      injected: the fault, and when.
      statuses: of the processes; negative is a signal.
      seconds: until the last process had ended, after the fault or, where that is there from the start, after the
        first process; None where the run had to wait instead.
      said: the line that says what happened; empty if one of the processes that could say something did not.
      went_on_from: the checkpoint from which the next start went on.
      same_losses: whether each step had the loss that it has in a run without a fault, bit for bit.
    """

    injected: str
    statuses: list[int]
    seconds: float | None
    said: str
    went_on_from: int | None = None
    same_losses: bool = False


class Pod:
    """The processes of one run, whose output is read while they run."""

    def __init__(self, workdir: Path, data_dirs: Sequence[Path]) -> None:
        coordinator, count = free_address(), len(data_dirs)
        self.processes = [
            start(workdir, data_dir, *FIELDS, process=(coordinator, count, index))
            for index, data_dir in enumerate(data_dirs)
        ]

    def wait_until_step(self, workdir: Path, step: int) -> None:
        """Waits until that step is on record, and a checkpoint finished."""
        wait_for(
            lambda: max(losses(workdir), default=0) >= step and bool(checkpoint_steps(workdir)),
            *self.processes,
            timeout=STARTS_WITHIN,
        )

    def end(self, timeout: float, *, besides: Sequence[int] = ()) -> float:
        """Waits for all processes, or all but some; kills what is left. Returns the seconds that they took."""
        begin = time.monotonic()
        waited_for = [process for index, process in enumerate(self.processes) if index not in besides]
        while any(process.poll() is None for process in waited_for) and time.monotonic() - begin < timeout:
            time.sleep(0.1)
        return time.monotonic() - begin

    def close(self) -> None:
        """Leaves nothing running."""
        for process in self.processes:
            process.kill()
            process.wait()

    def end_of_start(self) -> float:
        """Waits for processes that cannot start; returns the seconds from the end of the first to that of the last.

        How long the first takes is a matter of its imports.
        """
        begin = time.monotonic()
        while all(process.poll() is None for process in self.processes) and time.monotonic() - begin < STARTS_WITHIN:
            time.sleep(0.1)
        return self.end(ALL_END_WITHIN + 1)

    @property
    def statuses(self) -> list[int]:
        """Of the processes, which have ended."""
        return [process.returncode for process in self.processes]

    def outputs(self, *, besides: Sequence[int] = ()) -> list[str]:
        """What each process wrote, or all but some."""
        return [process.output for index, process in enumerate(self.processes) if index not in besides]

    @property
    def output(self) -> str:
        """What all processes wrote."""
        return "".join(self.outputs())


@contextlib.contextmanager
def pod(workdir: Path, data_dirs: Sequence[Path]) -> Iterator[Pod]:
    """The processes of a run, of which none outlives the block."""
    running = Pod(workdir, data_dirs)
    try:
        yield running
    finally:
        running.close()


@dataclasses.dataclass
class Case:
    """Where a case happens, and with what.

    Attributes:
      workdir: of its run.
      data_dirs: of its processes.
      rng: of its moments.
    """

    workdir: Path
    data_dirs: list[Path]
    rng: random.Random

    def step(self) -> int:
        """When to inject."""
        return self.rng.randint(*INJECTED_AT)


_LOST = r"error: .*(no sign of life|coordinates the run)"


def killed(case: Case) -> Outcome:
    """The last process is killed."""
    return _hit(case, signal.SIGKILL, len(case.data_dirs) - 1)


def stopped(case: Case) -> Outcome:
    """The last process is stopped for good, as on a host that hangs; woken up in the end, it has to end as well."""
    return _hit(case, signal.SIGSTOP, len(case.data_dirs) - 1)


def coordinator_killed(case: Case) -> Outcome:
    """Process 0 is killed."""
    return _hit(case, signal.SIGKILL, 0)


def coordinator_stopped(case: Case) -> Outcome:
    """Process 0 is stopped for good."""
    return _hit(case, signal.SIGSTOP, 0)


def _hit(case: Case, number: signal.Signals, index: int) -> Outcome:
    step = case.step()
    with pod(case.workdir, case.data_dirs) as running:
        running.wait_until_step(case.workdir, step)
        running.processes[index].send_signal(number)
        seconds = running.end(ALL_END_WITHIN, besides=(index,))
        if number == signal.SIGSTOP:
            running.processes[index].send_signal(signal.SIGCONT)
            seconds += running.end(ALL_END_WITHIN)
    said = _said(running.outputs(besides=(index,)), _LOST)
    if number == signal.SIGSTOP and not _said(running.outputs()[index : index + 1], "error: this process stood still"):
        said = ""
    return Outcome(f"{number.name} to process {index} at step {step}", running.statuses, seconds, said)


def full_disk(case: Case) -> Outcome:
    """The disk under the workdir is full."""
    step = case.step()
    with _own_file_system(case.workdir) as mounted, pod(case.workdir, case.data_dirs) as running:
        running.wait_until_step(case.workdir, step)
        if mounted:
            _fill(case.workdir / "filler")
        else:
            for process in running.processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        seconds = running.end(ALL_END_WITHIN)
        running.close()
        said = _said(running.outputs(), r"error: .*(No space left|File too large|RESOURCE_EXHAUSTED|ENOSPC)")
        (case.workdir / "filler").unlink(missing_ok=True)
        return _restarted(case, Outcome(f"disk full at step {step}", running.statuses, seconds, said))


def read_only(case: Case) -> Outcome:
    """The workdir of a run that goes on is read-only."""
    with _own_file_system(case.workdir) as mounted:
        _run_and_stop(case)
        _set_writable(case.workdir, mounted, False)
        with pod(case.workdir, case.data_dirs) as running:
            seconds = running.end_of_start()
        _set_writable(case.workdir, mounted, True)
        said = _said(running.outputs(), r"error: .*([Rr]ead-only|Permission denied|cannot be written)")
        return _restarted(case, Outcome("workdir read-only at the start", running.statuses, seconds, said))


def missing_shard(case: Case) -> Outcome:
    """One host has not all of the dataset."""
    _run_and_stop(case)
    incomplete = case.workdir.with_name("incomplete")
    shutil.copytree(case.data_dirs[0], incomplete)
    for shard in incomplete.rglob("*.array_record*"):
        shard.unlink()
    with pod(case.workdir, [*case.data_dirs[:-1], incomplete]) as running:
        seconds = running.end_of_start()
    said = _said(running.outputs(), "error: .*incomplete")
    return Outcome("no shards on the host of the last process", running.statuses, seconds, said)


def slow(case: Case) -> Outcome:
    """One process stands still for 14 seconds and goes on: it is waited for, and named."""
    step = case.step()
    with pod(case.workdir, case.data_dirs) as running:
        running.wait_until_step(case.workdir, step)
        running.processes[-1].send_signal(signal.SIGSTOP)
        time.sleep(14)
        running.processes[-1].send_signal(signal.SIGCONT)
        running.end(STARTS_WITHIN)
    # Not a line about an earlier step, such as one that was being compiled.
    held_up = "|".join(str(number) for number in range(step, step + 10))
    said = _said(running.outputs()[:1], rf"waiting for process \d+ on \S+: (silent|before step ({held_up})) ")
    return Outcome(f"last process stands still for 14 s at step {step}", running.statuses, None, said)


def corrupted(case: Case) -> Outcome:
    """The files of the newest checkpoint are cut off."""
    _run_and_stop(case)
    newest = checkpoint_steps(case.workdir)[-1]
    damage(case.workdir / "checkpoints", newest)
    with pod(case.workdir, case.data_dirs) as running:
        running.end(STARTS_WITHIN)
    said = _said(running.outputs()[:1], rf"checkpoint {newest} cannot be read and is passed over.*")
    return Outcome(f"checkpoint {newest} cut off", running.statuses, None, said, _went_on_from(running.output))


CASES: dict[str, Callable[[Case], Outcome]] = {
    case.__name__: case
    for case in (
        killed,
        stopped,
        coordinator_killed,
        coordinator_stopped,
        full_disk,
        read_only,
        missing_shard,
        slow,
        corrupted,
    )
}


def _run_and_stop(case: Case) -> None:
    """Some steps of the run, up to a SIGTERM."""
    with pod(case.workdir, case.data_dirs) as running:
        running.wait_until_step(case.workdir, case.step())
        running.processes[-1].terminate()
        running.end(STARTS_WITHIN)
    if set(running.statuses) != {143}:
        sys.exit(f"SIGTERM: the statuses are {running.statuses}\n{running.output}")


def _restarted(case: Case, outcome: Outcome) -> Outcome:
    """Starts all processes again, up to the end."""
    if max(losses(case.workdir), default=0) < STEPS:
        with pod(case.workdir, case.data_dirs) as running:
            running.end(STARTS_WITHIN)
        if set(running.statuses) != {0}:  # the losses will not be the same; the other cases go on
            _say(f"started again, the statuses are {running.statuses}\n{running.output}")
        outcome.went_on_from = _went_on_from(running.output)
    outcome.same_losses = losses(case.workdir) == _WHOLE
    return outcome


# The losses of the run that nothing happened to.
_WHOLE: dict[int, float] = {}


def _said(outputs: Sequence[str], pattern: str) -> str:
    """The first line with the pattern, if all outputs have one; otherwise empty."""
    found = [
        next((line for line in re.split(r"[\r\n]+", output) if re.search(pattern, line)), "") for output in outputs
    ]
    return re.sub(r"^[A-Z]\d{4} .*?\] ", "", found[0].strip()) if all(found) else ""  # without the time of a log


def _went_on_from(output: str) -> int | None:
    found = re.search(r"going on from step (\d+)", output)
    return int(found[1]) if found else None


@contextlib.contextmanager
def _own_file_system(folder: Path) -> Iterator[bool]:
    """Puts a small file system in the place of a folder, if that is allowed; yields whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", TMPFS, "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(2**20)):
            pass
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(512)):
            pass


def _set_writable(folder: Path, mounted: bool, writable: bool) -> None:
    if mounted:
        subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", str(folder)], check=True)
        return
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755 if writable else 0o555)


def main() -> None:
    options = _options()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_dataset(folder / "data")
        keep_compiled(options.cache or folder / "cache")
        data_dirs = [folder / "data"] * options.processes
        outcomes = _run(folder, data_dirs, options)
    result = {
        "outcomes": {name: dataclasses.asdict(outcome) for name, outcome in outcomes.items()},
        "failures": _failures(outcomes),
        "processes": options.processes,
        "steps": STEPS,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - begin),
    }
    print(_markdown(result))
    timing.write(options.output, result)
    if result["failures"]:
        sys.exit("\n".join(_failures(outcomes)))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Injects faults into runs of several processes.")
    parser.add_argument("--cases", default=",".join(CASES), help="separated by commas (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of each run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="compiled programs of an earlier call")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write what was seen here, as JSON")
    options = parser.parse_args()
    options.cases = options.cases.split(",")
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown case {unknown[0]}; known are {', '.join(CASES)}")
    if options.processes < 2:
        parser.error("--processes must be at least 2")
    return options


def _run(folder: Path, data_dirs: list[Path], options: argparse.Namespace) -> dict[str, Outcome]:
    _say("a run without faults")
    with pod(folder / "whole", data_dirs) as running:
        running.end(STARTS_WITHIN)
    if set(running.statuses) != {0}:
        sys.exit(f"the run without faults ended with {running.statuses}\n{running.output}")
    _WHOLE.update(losses(folder / "whole"))
    outcomes = {}
    for name in options.cases:
        case = Case(folder / name / "workdir", data_dirs, random.Random(f"{options.seed} {name}"))
        case.workdir.parent.mkdir()
        outcome = CASES[name](case)
        # Two cases end with the life of their own file system, and were started again within it.
        outcomes[name] = outcome if outcome.same_losses else _restarted_unless_gone(case, outcome)
        outcome.said = outcome.said.replace(f"{folder}/", "")[:200]
        _say(f"{name}: {outcomes[name]}")
    return outcomes


def _restarted_unless_gone(case: Case, outcome: Outcome) -> Outcome:
    return _restarted(case, outcome) if checkpoint_steps(case.workdir) else outcome


def _failures(outcomes: dict[str, Outcome]) -> list[str]:
    failures = []
    for name, outcome in outcomes.items():
        waits = outcome.seconds is None
        if waits != (set(outcome.statuses) == {0}):
            failures.append(f"{name}: ended with {outcome.statuses}")
        if not outcome.said:
            failures.append(f"{name}: no line says what happened")
        if outcome.seconds is not None and outcome.seconds > ALL_END_WITHIN:
            failures.append(f"{name}: took {outcome.seconds:.0f} s to end")
        if not outcome.same_losses:
            failures.append(f"{name}: the losses differ from those of the run without a fault")
    return failures


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _markdown(result: dict[str, Any]) -> str:
    lines = [
        "| injected | statuses | all ended after | went on from | losses | said |",
        "|---|---|---:|---:|---|---|",
    ]
    for outcome in result["outcomes"].values():
        after = "waited for" if outcome["seconds"] is None else f"{outcome['seconds']:.0f} s"
        same = "identical" if outcome["same_losses"] else "DIFFERENT"
        start_step = outcome["went_on_from"] if outcome["went_on_from"] is not None else "–"
        statuses = ", ".join(map(str, outcome["statuses"]))
        said = outcome["said"].replace("|", "\\|") or "NOTHING"
        lines.append(f"| {outcome['injected']} | {statuses} | {after} | {start_step} | {same} | {said} |")
    lines += [
        "",
        f"{result['processes']} processes, {result['steps']} steps, a checkpoint every 3. "
        + timing.footer(result["seconds"]),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
