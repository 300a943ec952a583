"""If these fail, a launcher does not start a run as it says, or not again after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}

# A train.py that writes down how it was started, and ends with the next of the statuses that it finds.
_TRAIN = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path("attempts")
here.mkdir(exist_ok=True)
name = os.environ.get("SLURM_PROCID") or "".join(a for a in sys.argv if a.startswith("--process_id"))
attempt = len(list(here.glob(f"{name}.*")))
(here / f"{name}.{attempt}").write_text(json.dumps(sys.argv[1:]))
status = json.loads(pathlib.Path("statuses").read_text())[attempt]
if status == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (here / "waiting").touch()
    time.sleep(60)
if isinstance(status, list):  # one for each process: the second learns a second later how the first ended
    time.sleep(int(name))
    status = status[int(name)]
sys.exit(status)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder that looks like this one to a launcher."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "train.py").write_text(_TRAIN)
    (tmp_path / "bin").mkdir()
    return tmp_path


def stand_in(repository: Path, name: str, script: str) -> None:
    """Puts a program in the place of one that is not on this machine."""
    path = repository / "bin" / name
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


def launch(repository: Path, script: str, *arguments: str, statuses: list[Any], **variables: str) -> Any:
    """Starts a launcher."""
    (repository / "statuses").write_text(json.dumps(statuses))
    path = f"{repository / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PAUSE": "0", "REPOSITORY": str(repository), **variables}
    return subprocess.Popen(
        [LAUNCH / script, *arguments],
        cwd=repository,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def attempts(repository: Path) -> list[str]:
    return sorted(path.name for path in (repository / "attempts").iterdir())


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.05)


def test_shellcheck() -> None:
    command = [Path(sys.executable).with_name("shellcheck"), *sorted(LAUNCH.glob("*.sh"))]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


HOSTS = {"HOSTS": "one two", "WORKDIR": "/runs/a b", "SSH": "stand_in_for_ssh"}
_SSH = 'shift; exec bash -c "$1"'


def test_hosts_are_started_together_and_again(repository: Path) -> None:
    stand_in(repository, "stand_in_for_ssh", _SSH)
    process = launch(repository, "hosts.sh", "--config.num_steps=7", statuses=[143, 1, 0], **HOSTS)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert attempts(repository) == [f"--process_id={index}.{attempt}" for index in (0, 1) for attempt in (0, 1, 2)]
    assert json.loads((repository / "attempts" / "--process_id=1.2").read_text()) == [
        "--workdir=/runs/a b",
        "--coordinator=one:8476",
        "--num_processes=2",
        "--process_id=1",
        "--config.num_steps=7",
    ]


def test_hosts_are_not_started_again_with_a_wrong_input(repository: Path) -> None:
    stand_in(repository, "stand_in_for_ssh", _SSH)
    process = launch(repository, "hosts.sh", statuses=[2, 0], **HOSTS)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert attempts(repository) == ["--process_id=0.0", "--process_id=1.0"]


def test_sigterm_to_the_launcher_stops_the_hosts(repository: Path) -> None:
    stand_in(repository, "stand_in_for_ssh", _SSH)
    # The real processes stop together; here each host is the one that coordinates.
    process = launch(repository, "hosts.sh", statuses=["wait", 0], **{**HOSTS, "HOSTS": "one", "PORT": "18476"})
    wait_for_file(repository / "attempts" / "waiting")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert attempts(repository) == ["--process_id=0.0", "waiting"]


# describe says READY at the second question; ssh runs the command once for each of two hosts.
_GCLOUD = """
case "$4" in
  describe) if [[ -e asked ]]; then echo READY; else touch asked; echo CREATING; fi ;;
  ssh)
    for argument in "$@"; do command=${argument#--command=}; done
    code=0
    for host in 0 1; do (cd .. && SLURM_PROCID=$host bash -c "$command" 2>&1) || code=1; done
    exit "$code"
    ;;
esac
"""


@pytest.mark.parametrize(("statuses", "expected"), [([143, 0], 0), ([2, 0], 2), ([22, 0], 0)], ids=str)
def test_tpu_vm(repository: Path, statuses: list[int], expected: int) -> None:
    stand_in(repository, "gcloud", _GCLOUD)
    variables = {"TPU": "slice", "ZONE": "zone", "WORKDIR": "gs://bucket/run", "REPOSITORY": repository.name}
    process = launch(repository, "tpu_vm.sh", "--config=c.py", statuses=statuses, **variables)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == expected, output
    assert "slice is CREATING; waiting" in output
    made = 2 if expected == 0 else 1
    assert attempts(repository) == [f"{host}.{attempt}" for host in (0, 1) for attempt in range(made)]
    arguments = json.loads((repository / "attempts" / "0.0").read_text())
    assert arguments == ["--cluster", "--workdir=gs://bucket/run", "--config=c.py"]


# Starts two tasks as SLURM does; scontrol and squeue write down that they were called.
_SRUN = """
kill_others=
while [[ $1 == --* ]]; do
  if [[ $1 == --kill-on-bad-exit=1 ]]; then kill_others=1; fi
  shift
done
pids=()
for id in 0 1; do SLURM_PROCID=$id SLURM_NTASKS=2 "$@" & pids+=("$!"); done
echo "${pids[@]}" > tasks
code=0
for _ in "${pids[@]}"; do
  last=0
  wait -n || last=$?
  if ((last > code)); then code=$last; fi
  if [[ $last != 0 && $kill_others ]]; then kill -TERM "${pids[@]}" 2>/dev/null; fi
done
exit "$code"
"""


@pytest.mark.parametrize(
    ("status", "state", "restarts", "requeued"),
    [
        (143, "RUNNING", 0, True),
        (1, "RUNNING", 0, True),
        (143, "COMPLETING", 0, False),
        (2, "RUNNING", 0, False),
        (1, "RUNNING", 20, False),
    ],
)
def test_slurm_requeues(repository: Path, status: int, state: str, restarts: int, requeued: bool) -> None:
    process = _slurm(repository, [status], state, SLURM_RESTART_COUNT=str(restarts))
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert attempts(repository) == ["0.0", "1.0"]
    assert (repository / "scontrol_called").exists() == requeued


def test_slurm_lets_the_others_end_with_the_status_of_the_first(repository: Path) -> None:
    """Killed by SLURM, they would have another one, and that is the run's: it would be tried again."""
    process = _slurm(repository, [[2, 2]], "RUNNING")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2, output
    assert not (repository / "scontrol_called").exists()


def test_slurm_passes_the_signal_on(repository: Path) -> None:
    process = _slurm(repository, ["wait"], "RUNNING")
    wait_for_file(repository / "attempts" / "waiting")
    wait_for_file(repository / "tasks")
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 143, output
    assert (repository / "scontrol_called").exists()


def _slurm(repository: Path, statuses: list[Any], state: str, **variables: str) -> Any:
    stand_in(repository, "srun", _SRUN)
    stand_in(repository, "squeue", f"echo {state}")
    stand_in(repository, "scontrol", "touch scontrol_called; exit 1")
    stand_in(repository, "scancel", "read -ra pids < tasks; kill -TERM ${pids[@]}")
    return launch(repository, "slurm.sh", statuses=statuses, SLURM_JOB_ID="1", **variables)


def test_the_manifest_is_a_jobset() -> None:
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    schema = json.loads(Path(__file__).with_name("jobset_v1alpha2.json").read_text())
    assert complaints(manifest, schema) == []
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    # The API server demands these three together with podFailurePolicy and Indexed.
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    assert job["parallelism"] == job["completions"]
    (container,) = job["template"]["spec"]["containers"]
    rules = job["podFailurePolicy"]["rules"]
    assert {rule["onExitCodes"]["containerName"] for rule in rules} == {container["name"]}
    # What would repeat itself ends it all; any other failure, such as a lost host, starts all pods again.
    assert [(rule["action"], rule["onExitCodes"]["values"]) for rule in rules] == [("FailJob", [2])]
    (policy,) = manifest["spec"]["failurePolicy"]["rules"]
    assert (policy["action"], policy["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    volumes = {volume["name"] for volume in job["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"replicas": "1"}, "/spec/replicatedJobs/0/replicas: '1' is not of type integer"),
        ({"replica": 1}, "/spec/replicatedJobs/0/replica: unknown"),
        ({"name": None}, "/spec/replicatedJobs/0/name: None is not of type string"),
    ],
    ids=str,
)
def test_the_check_of_the_manifest_finds_mistakes(change: dict[str, Any], complaint: str) -> None:
    manifest = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text())
    schema = json.loads(Path(__file__).with_name("jobset_v1alpha2.json").read_text())
    manifest["spec"]["replicatedJobs"][0].update(change)
    assert complaints(manifest, schema) == [complaint]


def complaints(value: Any, schema: dict[str, Any], path: str = "") -> list[str]:
    """What a Kubernetes server with strict field validation would find: unknown, missing and mistyped fields."""
    if schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, int | str) else [f"{path}: {value!r} is neither number nor string"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{path}: {value!r} is not of type {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{path}: {value!r} is not one of {schema['enum']}"]
    if isinstance(value, list):
        return [
            line for index, item in enumerate(value) for line in complaints(item, schema["items"], f"{path}/{index}")
        ]
    if not isinstance(value, dict):
        return []
    found = [f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        known = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
        if known:
            found += complaints(item, known, f"{path}/{name}")
        elif schema.get("properties"):  # metadata has none here
            found.append(f"{path}/{name}: unknown")
    return found
