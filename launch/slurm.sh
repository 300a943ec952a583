#!/usr/bin/env bash
# Trains on GPUs under SLURM, one process for each GPU; goes back into the queue when it is preempted.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#       --config=configs/seemore_t_x4.py --workdir=/shared/runs/t_x4
#
# Submitted from the repository, whose environment and dataset all nodes see. Arguments go to train.py.
#SBATCH --job-name=seemore
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# Two minutes before the time is up, this shell is told; see the trap.
#SBATCH --signal=B:TERM@120
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2

# The processes are told to save. Through scancel, because srun itself would answer the signal by killing them. Once:
# a second one kills.
trap 'trap "" TERM; scancel --signal=TERM "$SLURM_JOB_ID"' TERM

# A process that fails lets the others end with the same status. SLURM must not kill them first, as their status would
# count then; it does so with what is left after a minute.
srun --kill-on-bad-exit=0 --wait=60 "${PYTHON:-.venv/bin/python}" train.py "$@" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # the trap ends a wait early
  status=0
  wait "$step" || status=$?
done

# 2 is what would repeat itself, such as an input that cannot be used (docs/pods.md). A job that is no longer running was
# cancelled, or is already being requeued.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if ((status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-20})) && [[ $state == RUNNING ]]; then
  echo "ended with status $status; back into the queue"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 # until SLURM ends this shell
fi
exit "$status"
