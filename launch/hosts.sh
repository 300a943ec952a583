#!/usr/bin/env bash
# Trains on several hosts over SSH, with one process on each host. If a process fails, all are started again together.
#
#   HOSTS="node1 node2" WORKDIR=/shared/runs/t_x4 launch/hosts.sh --config=configs/seemore_t_x4.py ...
#
# The first host coordinates the run. REPOSITORY is the folder of this repository, with its environment .venv (default:
# the current folder). It must have the same path on all hosts, and so must the dataset. Arguments are passed to
# train.py.
set -euo pipefail

: "${HOSTS:?the hosts, separated by spaces}" "${WORKDIR:?the folder of the run, which all hosts see}"
REPOSITORY=${REPOSITORY:-$PWD}
PORT=${PORT:-8476}
RESTARTS=${RESTARTS:-20}
SSH=${SSH:-ssh -tt -o BatchMode=yes -o ServerAliveInterval=10 -o ServerAliveCountMax=3}

read -ra hosts <<<"$HOSTS"
read -ra ssh <<<"$SSH"
pids=()
stopped=

# The file with the process ID of process 0, on the first host.
file=/tmp/seemore-jax-$PORT.pid

# SIGTERM or Ctrl-C for this script is passed on to process 0. All processes then save and end after the same step. The
# option -tt gives the processes a terminal, so that they also end when the SSH connection ends.
# shellcheck disable=SC2317,SC2329 # the trap calls it
stop() {
  stopped=1
  "${ssh[@]}" "${hosts[0]}" \
    "pid=\$(cat $file) && grep -q train.py /proc/\$pid/cmdline && kill -TERM \$pid" </dev/null || true
}
trap stop TERM INT

start() {
  local index command
  pids=()
  for index in "${!hosts[@]}"; do
    command="cd $(printf '%q' "$REPOSITORY") &&"
    if ((index == 0)); then command+=" echo \$\$ >$file &&"; fi
    command+=" exec .venv/bin/python train.py"
    command+=$(printf ' %q' --workdir="$WORKDIR" --coordinator="${hosts[0]}:$PORT" \
      --num_processes="${#hosts[@]}" --process_id="$index" "$@")
    "${ssh[@]}" "${hosts[index]}" "$command" </dev/null &
    pids+=("$!")
  done
}

# Waits for all processes and returns the exit status of the run: 0 if no process failed, 2 if one failed with an error
# that would repeat after a restart, otherwise the status of a failed process.
collect() {
  local pid code worst=0
  for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal to this script ends `wait` early
      code=0
      wait "$pid" || code=$?
    done
    if ((code == 2 || (code != 0 && worst != 2))); then worst=$code; fi
  done
  return "$worst"
}

for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
  status=0
  start "$@"
  collect || status=$?
  if [[ -n $stopped || $status == 0 || $status == 2 ]]; then exit "$status"; fi
  echo "attempt $attempt ended with status $status; starting again" >&2
  sleep "${PAUSE:-10}"
done
echo "given up after $RESTARTS restarts" >&2
exit 1
