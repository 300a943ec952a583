#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice: starts train.py on all hosts of the slice, and starts it again after an interruption.
#
#   TPU=NAME ZONE=us-west4-a WORKDIR=gs://bucket/runs/t_x4 launch/tpu_vm.sh --config=configs/seemore_t_x4.py
#
# REPOSITORY is the folder of this repository on each host (default: seemore-jax, in the home directory). It must have
# its environment .venv. Each host needs the dataset, too. SETUP is a command that runs on each host before each attempt.
# It can install these, because a slice that was preempted and created again is empty. Arguments are passed to train.py.
set -euo pipefail

: "${TPU:?the name of the slice}" "${ZONE:?its zone}" "${WORKDIR:?the folder of the run, which all hosts see}"
REPOSITORY=${REPOSITORY:-seemore-jax}
SETUP=${SETUP:-true}
RESTARTS=${RESTARTS:-20}

on_all_hosts() {
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=all --command="$1"
}

wait_for_slice() {
  local state
  until state=$(gcloud compute tpus tpu-vm describe "$TPU" --zone="$ZONE" --format='value(state)') &&
    [[ $state == READY ]]; do
    echo "$TPU is ${state:-not there}; waiting" >&2
    sleep "${PAUSE:-30}"
  done
}

# The command for each host. It ends a process that an earlier attempt has left and that would occupy the chips, runs
# SETUP, and starts train.py. With --cluster, train.py asks the metadata server which host it runs on. The process ID is
# written to a file.
file=/tmp/seemore-jax.pid
# shellcheck disable=SC2016 # the shells of the hosts expand the variables
running='{ pid=$(cat '$file') && grep -q train.py "/proc/$pid/cmdline"; } 2>/dev/null'
# shellcheck disable=SC2016
start='sh -c '\''echo $$ >'$file'; exec "$@"'\'' sh .venv/bin/python train.py'
arguments=$(printf ' %q' --cluster --workdir="$WORKDIR" "$@")
command="if $running; then kill -KILL \$pid; sleep 2; fi; $SETUP && cd $(printf '%q' "$REPOSITORY") || exit 1; "
# Status 2 is an error that would repeat (docs/pods.md). The status is printed, because gcloud does not return it.
command+="$start$arguments || { status=\$?; echo \"train.py: status \$status\"; exit \$status; }"

# SIGTERM or Ctrl-C for this script is passed on to process 0. All processes then save and end after the same step.
stopped=
# shellcheck disable=SC2317,SC2329 # the trap calls it
stop() {
  stopped=1
  gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker=0 \
    --command="if $running; then kill -TERM \$pid; fi" || true
}
trap stop TERM INT

log=$(mktemp)
trap 'rm -f "$log"' EXIT

for ((attempt = 0; attempt <= RESTARTS; attempt++)); do
  wait_for_slice
  on_all_hosts "$command" > >(tee "$log") 2>&1 &
  hosts=$!
  status=0
  wait "$hosts" || status=$?
  while kill -0 "$hosts" 2>/dev/null; do # the trap ends `wait` early
    status=0
    wait "$hosts" || status=$?
  done
  if [[ -n $stopped || $status == 0 ]]; then exit "$status"; fi
  if grep -Eq $'^train.py: status 2\r?$' "$log"; then exit 2; fi
  echo "attempt $attempt ended with status $status; starting again" >&2
  sleep "${PAUSE:-30}"
done
echo "given up after $RESTARTS restarts" >&2
exit 1
