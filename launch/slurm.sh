#!/usr/bin/env bash
# Trains on GPUs under SLURM, with one process for each GPU. A job that is preempted goes back into the queue.
#
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#       --config=configs/seemore_t_x4.py --workdir=/shared/runs/t_x4
#
# Submit the job from the folder of this repository. All nodes must see this folder, its environment and the dataset.
# Arguments are passed to train.py.
#SBATCH --job-name=seemore
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# SLURM sends SIGTERM to this shell two minutes before the time limit; see the trap below.
#SBATCH --signal=B:TERM@120
set -uo pipefail

cd "${SLURM_SUBMIT_DIR:-.}" || exit 2

# SIGTERM is passed on to the processes, which then save. scancel sends it, because srun would kill the processes. It is
# sent only once, because a second signal would kill them.
trap 'trap "" TERM; scancel --signal=TERM "$SLURM_JOB_ID"' TERM

# If a process fails, the others end with the same exit status. SLURM must not kill them before, because the status of
# killed processes would then count. SLURM kills the processes that are still running after a minute.
srun --kill-on-bad-exit=0 --wait=60 "${PYTHON:-.venv/bin/python}" train.py "$@" &
step=$!
status=0
wait "$step" || status=$?
while kill -0 "$step" 2>/dev/null; do # the trap ends `wait` early
  status=0
  wait "$step" || status=$?
done

# Status 2 is an error that would repeat, such as an input that cannot be used (docs/pods.md). If the job is no longer
# running, it was cancelled or is already being requeued.
state=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)
if ((status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < ${RESTARTS:-20})) && [[ $state == RUNNING ]]; then
  echo "ended with status $status; back into the queue"
  scontrol requeue "$SLURM_JOB_ID" && sleep 60 # SLURM ends this shell meanwhile
fi
exit "$status"
