#!/usr/bin/env bash
# Trains on a Cloud TPU VM slice: starts train.py on all of its hosts, and again after an interruption.
#
#   TPU=NAME ZONE=us-west4-a WORKDIR=gs://bucket/runs/t_x4 launch/tpu_vm.sh --config=configs/seemore_t_x4.py
#
# REPOSITORY (default: seemore-jax, in the home directory) and its environment are on each host, and so is the dataset.
# SETUP is a command that makes them so, on each host and before each attempt: a slice that was preempted and made
# again is empty. Arguments go to train.py.
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

# On each host: what an attempt has left running, which would hold the chips, is ended; SETUP; train.py, which asks the
# metadata server which host it is on (--cluster), with its process number in a file.
file=/tmp/seemore-jax.pid
# shellcheck disable=SC2016 # for the shells of the hosts
running='{ pid=$(cat '$file') && grep -q train.py "/proc/$pid/cmdline"; } 2>/dev/null'
# shellcheck disable=SC2016
start='sh -c '\''echo $$ >'$file'; exec "$@"'\'' sh .venv/bin/python train.py'
arguments=$(printf ' %q' --cluster --workdir="$WORKDIR" "$@")
command="if $running; then kill -KILL \$pid; sleep 2; fi; $SETUP && cd $(printf '%q' "$REPOSITORY") || exit 1; "
# 2 is what would repeat itself (docs/pods.md). It is printed, because gcloud does not pass statuses on.
command+="$start$arguments || { status=\$?; echo \"train.py: status \$status\"; exit \$status; }"

# SIGTERM or Ctrl-C here asks one process, and all save and end after the same step.
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
  while kill -0 "$hosts" 2>/dev/null; do # the trap ends a wait early
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
