#!/usr/bin/env bash
# sbatch launch/slurm.sh --config=FILE.py:VARIANT --workdir=SHARED_FOLDER [any other argument of resflax.train]
# DRY_RUN=1 bash launch/slurm.sh ... prints the command instead.
#
# One process a GPU: in a SLURM step JAX gives process i of a node the node's GPU i, and no other. So there are as many tasks
# as GPUs on a node, and each must see them all: no --gpus-per-task, no --gpu-bind.
#SBATCH --job-name=resflax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

# --kill-on-bad-exit=0: a process that has saved and ended must not cut short the save of another.
command=(srun --kill-on-bad-exit=0 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} python -m resflax.train "$@")
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
  exit
fi

code=0
"${command[@]}" || code=$?
# 143: saved on SIGTERM, which --signal sends to the processes but not to this shell. scancel ends this shell too: no requeue.
# 75: a process hung, failed or vanished, and the others ended for it; not for ever, since it may do so again.
if ((code == 143 || (code == 75 && ${SLURM_RESTART_COUNT:-0} < 20))); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
