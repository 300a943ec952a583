"""Injects faults into runs of several processes, and observes what the processes do.

Each function in `CASES` injects one fault and returns its `Outcome`. `benchmarks.faults` runs them and judges them.
"""

import contextlib
import dataclasses
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.harness.records import progress
from tests.support.training_runs import Pod, checkpoint_steps, damage, last_step, losses

STEPS = 60
INJECTED_AT = (4, 25)  # The fault comes at a random step between these; the first checkpoint is that of step 3.
FIELDS = (f"num_steps={STEPS}", "checkpoint_every=3", "ema_decay=0.9")
ALL_END_WITHIN = 60.0  # seconds
RUN_ENDS_WITHIN = 1200.0  # seconds; on a busy machine compilation takes minutes
# The small file system has space for four checkpoints, and is filled in an instant.
TMPFS = "size=64m"
# What a process says about another one that was lost.
LOST = r"error: .*(no sign of life|coordinates the run)"


@dataclasses.dataclass
class Outcome:
    """Describes a fault and what was observed.

    Attributes:
      injected: the fault, and when it was injected.
      statuses: the exit statuses of the processes; a negative number is a signal.
      seconds: the time until the last process had ended. It is counted from the fault, or, if the fault is there from
        the start, from the end of the first process. None if the run had to wait instead of ending.
      said: the line that says what happened; empty if a process that could say it did not.
      went_on_from: the checkpoint from which the next start continued.
      same_losses: whether each step had the loss of a run without a fault, bit for bit.
    """

    injected: str
    statuses: list[int]
    seconds: float | None
    said: str
    went_on_from: int | None = None
    same_losses: bool = False


@dataclasses.dataclass
class Case:
    """Describes the run into which a fault is injected.

    Attributes:
      workdir: the workdir of the run.
      data_dirs: the folder of data of each process.
      rng: draws the moments of faults.
      expected: the loss of each step in a run without a fault.
    """

    workdir: Path
    data_dirs: list[Path]
    rng: random.Random
    expected: dict[int, float]

    def draw_step(self) -> int:
        """Draws the step at which the fault is injected."""
        return self.rng.randint(*INJECTED_AT)

    def start(self, data_dirs: Sequence[Path] | None = None) -> Pod:
        """Starts the processes of the run, with other data if given."""
        return start_pod(self.workdir, data_dirs or self.data_dirs)


def start_pod(workdir: Path, data_dirs: Sequence[Path]) -> Pod:
    """Starts a run with one process for each folder of data."""
    return Pod(workdir, data_dirs, *FIELDS)


def killed(case: Case) -> Outcome:
    """Kills the last process."""
    return _signalled(case, signal.SIGKILL, len(case.data_dirs) - 1)


def stopped(case: Case) -> Outcome:
    """Stops the last process, as on a host that hangs; when it is woken up in the end, it has to end as well."""
    return _signalled(case, signal.SIGSTOP, len(case.data_dirs) - 1)


def coordinator_killed(case: Case) -> Outcome:
    """Kills process 0."""
    return _signalled(case, signal.SIGKILL, 0)


def coordinator_stopped(case: Case) -> Outcome:
    """Stops process 0, and wakes it up in the end."""
    return _signalled(case, signal.SIGSTOP, 0)


def _signalled(case: Case, number: signal.Signals, index: int) -> Outcome:
    step = case.draw_step()
    with case.start() as running:
        running.wait_until_step(step, RUN_ENDS_WITHIN)
        running.processes[index].send_signal(number)
        seconds = running.wait(ALL_END_WITHIN, besides=(index,))
        if number == signal.SIGSTOP:
            running.processes[index].send_signal(signal.SIGCONT)
            seconds += running.wait(ALL_END_WITHIN)
    said = line_in_each(running.outputs(besides=(index,)), LOST)
    output_of_hit = running.outputs()[index : index + 1]
    if number == signal.SIGSTOP and not line_in_each(output_of_hit, "error: this process stood still"):
        said = ""
    return Outcome(f"{number.name} to process {index} at step {step}", running.statuses, seconds, said)


def full_disk(case: Case) -> Outcome:
    """Fills the disk under the workdir; without a file system of its own, limits the size of files instead."""
    step = case.draw_step()
    with _own_file_system(case.workdir) as mounted, case.start() as running:
        running.wait_until_step(step, RUN_ENDS_WITHIN)
        if mounted:
            _fill(case.workdir / "filler")
        else:
            for process in running.processes:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        seconds = running.wait(ALL_END_WITHIN)
        running.close()
        said = line_in_each(running.outputs(), r"error: .*(No space left|File too large|RESOURCE_EXHAUSTED|ENOSPC)")
        (case.workdir / "filler").unlink(missing_ok=True)
        # The file system ends with this block, so the run has to be started again within it.
        return start_again(case, Outcome(f"disk full at step {step}", running.statuses, seconds, said))


def read_only(case: Case) -> Outcome:
    """Makes the workdir of a run read-only before the run is started again."""
    with _own_file_system(case.workdir) as mounted:
        _run_and_stop(case)
        _set_writable(case.workdir, mounted, False)
        with case.start() as running:
            seconds = _seconds_after_first(running)
        _set_writable(case.workdir, mounted, True)
        said = line_in_each(running.outputs(), r"error: .*([Rr]ead-only|Permission denied|cannot be written)")
        return start_again(case, Outcome("workdir read-only at the start", running.statuses, seconds, said))


def missing_shard(case: Case) -> Outcome:
    """Removes a part of the data set on one host before the run is started again."""
    _run_and_stop(case)
    incomplete = case.workdir.with_name("incomplete")
    shutil.copytree(case.data_dirs[0], incomplete)
    for shard in incomplete.rglob("*.array_record*"):
        shard.unlink()
    with case.start([*case.data_dirs[:-1], incomplete]) as running:
        seconds = _seconds_after_first(running)
    said = line_in_each(running.outputs(), "error: .*incomplete")
    return Outcome("no shards on the host of the last process", running.statuses, seconds, said)


def slow(case: Case) -> Outcome:
    """Stops one process for 14 seconds: the others have to wait for it, and to name it."""
    step = case.draw_step()
    with case.start() as running:
        running.wait_until_step(step, RUN_ENDS_WITHIN)
        running.processes[-1].send_signal(signal.SIGSTOP)
        time.sleep(14)
        running.processes[-1].send_signal(signal.SIGCONT)
        running.wait(RUN_ENDS_WITHIN)
    # A line about an earlier step, such as one that was compiled for long, does not count.
    held_up = "|".join(str(number) for number in range(step, step + 10))
    pattern = rf"waiting for process \d+ on \S+: (silent|before step ({held_up})) "
    said = line_in_each(running.outputs()[:1], pattern)
    return Outcome(f"last process stands still for 14 s at step {step}", running.statuses, None, said)


def corrupted(case: Case) -> Outcome:
    """Cuts off the files of the newest checkpoint before the run is started again."""
    _run_and_stop(case)
    newest = checkpoint_steps(case.workdir)[-1]
    damage(case.workdir / "checkpoints", newest)
    with case.start() as running:
        running.wait(RUN_ENDS_WITHIN)
    said = line_in_each(running.outputs()[:1], rf"checkpoint {newest} cannot be read and is passed over.*")
    return Outcome(f"checkpoint {newest} cut off", running.statuses, None, said, _step_gone_on_from(running.output))


CASES: dict[str, Callable[[Case], Outcome]] = {
    case.__name__: case
    for case in (
        *(killed, stopped, coordinator_killed, coordinator_stopped),
        *(full_disk, read_only, missing_shard, slow, corrupted),
    )
}


def start_again(case: Case, outcome: Outcome) -> Outcome:
    """Starts all processes again if the run has not reached its end, and completes the outcome."""
    if last_step(case.workdir) < STEPS:
        with case.start() as running:
            running.wait(RUN_ENDS_WITHIN)
        if set(running.statuses) != {0}:  # The losses will differ; the other cases are still run.
            progress(f"started again, the statuses are {running.statuses}\n{running.output}")
        outcome.went_on_from = _step_gone_on_from(running.output)
    outcome.same_losses = losses(case.workdir) == case.expected
    return outcome


def line_in_each(outputs: Sequence[str], pattern: str) -> str:
    """Returns the first line that matches a pattern, without the prefix of a log; empty if an output has no match."""
    found = [
        next((line for line in re.split(r"[\r\n]+", output) if re.search(pattern, line)), "") for output in outputs
    ]
    return re.sub(r"^[A-Z]\d{4} .*?\] ", "", found[0].strip()) if all(found) else ""


def _run_and_stop(case: Case) -> None:
    """Runs some steps and stops the run with SIGTERM."""
    with case.start() as running:
        running.wait_until_step(case.draw_step(), RUN_ENDS_WITHIN)
        running.processes[-1].terminate()
        running.wait(RUN_ENDS_WITHIN)
    if set(running.statuses) != {143}:
        sys.exit(f"after SIGTERM the statuses are {running.statuses}\n{running.output}")


def _seconds_after_first(running: Pod) -> float:
    """Waits for processes that cannot start, and returns the seconds from the end of the first to that of the last.

    The seconds before are not counted: they are mostly those of Python's imports.
    """
    running.wait_for_first(RUN_ENDS_WITHIN)
    return running.wait(ALL_END_WITHIN + 1)


def _step_gone_on_from(output: str) -> int | None:
    found = re.search(r"going on from step (\d+)", output)
    return int(found[1]) if found else None


@contextlib.contextmanager
def _own_file_system(folder: Path) -> Iterator[bool]:
    """Mounts a small file system at a new folder if that is allowed, and yields whether it was."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", TMPFS, "tmpfs", str(folder)]
    mounted = shutil.which("mount") is not None and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(path: Path) -> None:
    """Writes to a file until no byte is free: first large pieces, then small ones."""
    for mode, piece in (("wb", bytes(2**20)), ("ab", bytes(512))):
        with path.open(mode, buffering=0) as file, contextlib.suppress(OSError):
            while file.write(piece):
                pass


def _set_writable(folder: Path, mounted: bool, writable: bool) -> None:
    if mounted:
        subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", str(folder)], check=True)
        return
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        path.chmod(0o755 if writable else 0o555)
