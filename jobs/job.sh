# What every job does. A job sources this file and calls run_sweep; it runs in the folder that it
# was submitted from, the checkout's top. LAUNCHER and the rest are explained in site.sh.
#
# Slurm warns the script (--signal=B:USR1@120), the script warns the ranks, and the program drops
# the point in hand and exits 75. Then the job puts itself back into the queue: the same id, the
# same log, and --resume goes on where it stopped.
set -uo pipefail
cd "${SLURM_SUBMIT_DIR:?is set by sbatch: submit this script}" || exit 2
[[ -e jobs/site.sh ]] || { echo "submit from the checkout's top: no jobs/ in $PWD" >&2; exit 2; }
source jobs/site.sh

# launcher=(…): the words that start the program's ranks, one rank a GPU and each on its own cores.
# Slurm shows every rank all GPUs that the job has on its node, and a rank takes the one of its local
# rank, so that neighbours can map each other's memory. With --gpus-per-task=1 each rank is shown its
# own alone, and takes that. (--gpu-bind=none would take the list away: all of the node's, allocated
# or not, as far as nothing else keeps them apart.)
set_launcher() {
  local per_node=${SLURM_NTASKS_PER_NODE:-${SLURM_TASKS_PER_NODE%%(*}}
  local cores=$((SLURM_CPUS_ON_NODE / per_node))
  case $LAUNCHER in
    srun)
      # --wait, not --kill-on-bad-exit: all ranks exit 75 within moments, and none of them must be
      # killed for it; but where one rank has died the others do not stay.
      launcher=(srun --mpi=pmix --wait=20)
      if ((cores == 0)); then launcher+=(--overcommit --cpu-bind=none)
      elif [[ $BIND = none ]]; then launcher+=(--cpu-bind=none)
      else launcher+=("--cpus-per-task=$cores" --cpu-bind=cores); fi
      [[ -z $CONTAINER ]] || launcher+=("--container-image=$CONTAINER"
        "--container-mounts=$CONTAINER_MOUNTS" "--container-workdir=$PWD")
      ;;
    mpirun)
      [[ -z $CONTAINER ]] || { echo "CONTAINER needs LAUNCHER=srun (pyxis)" >&2; exit 2; }
      launcher=(mpirun -n "$SLURM_NTASKS")
      if ((cores == 0)) || [[ $BIND = none ]]; then
        launcher+=(--map-by "ppr:$per_node:node:OVERSUBSCRIBE" --bind-to none)
      else
        # Slurm counts hardware threads where the node has them.
        launcher+=(--use-hwthread-cpus --map-by "ppr:$per_node:node:PE=$cores" --bind-to hwthread)
      fi
      ;;
    *) echo "LAUNCHER=$LAUNCHER: srun or mpirun" >&2; exit 2 ;;
  esac
}

# wait_for PID: until it has ended, whatever signals come meanwhile; returns its code.
wait_for() {
  # A signal ends `wait`, with its own code; the last one gives the process's, however often asked.
  while kill -0 "$1" 2>/dev/null; do wait "$1"; done
  wait "$1"
}

# Not when it was cancelled meanwhile, which Slurm knows first; nor when this launch finished no
# point: then the next would not either.
put_back() {
  [[ $(squeue -h -j "$SLURM_JOB_ID" -o %T) = RUNNING ]] || return
  if (($(lines_in "$out") == lines_before)); then
    echo "no point was finished before the limit: give more time (sbatch --time)" >&2
    return
  fi
  scontrol requeue "$SLURM_JOB_ID"
}
lines_in() { wc -l 2>/dev/null < "$1/results.jsonl" || echo 0; }

warn() {
  echo "warned: time is nearly up" >&2
  kill -USR1 "$running" 2>/dev/null
  # `read` and not `sleep`: no process is left when the timer is killed.
  { read -rt "$GRACE_S" <> <(:); echo "the point in hand takes too long to end" >&2; put_back; } &
  timer=$!
}

# What the job's earlier starts left: where a node was lost, its ranks may live on and hold the
# folder's lock. Their end is waited for. And Slurm numbers steps anew: when theirs ends it would end
# ours of the same number, so that some steps go by first, one for each earlier start.
begin_anew() {
  local restarts=${SLURM_RESTART_COUNT:-0}
  lock_wait_s=$((restarts > 0 ? 600 : 0))
  while ((restarts-- > 0)); do srun --nodes=1 --ntasks=1 --overcommit true; done
}

# run_sweep SWEEP [options of `run`]: all its points, or an array task's slice of them, into OUT
# (default: results/ and the sweep file's name), a slice into OUT-I-of-N. N is SLICES, which only an
# array of some of its tasks has to say. with=(…) stands before the launcher.
run_sweep() {
  (($# >= 1)) || { echo "usage: sbatch [options] $SLURM_JOB_NAME SWEEP [options of run]" >&2; exit 2; }
  local sweep=$1 slice=() rc=0
  shift
  out=${OUT:-results/$(basename "$sweep" .json)}
  if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    local part=$SLURM_ARRAY_TASK_ID-of-${SLICES:-$SLURM_ARRAY_TASK_MAX}
    slice=(--slice "${part/-of-//}" ${MACHINE:+--machine "$MACHINE"})
    out=$out-$part
  fi
  lines_before=$(lines_in "$out")
  set_launcher
  begin_anew
  "${with[@]}" "${launcher[@]}" build/helix-bench run "$sweep" -o "$out" --resume \
    --lock-wait "$lock_wait_s" "${slice[@]}" "$@" &
  running=$!
  trap warn USR1
  trap 'kill -TERM "$running"' TERM INT
  wait_for "$running" || rc=$?
  [[ -z $timer ]] || kill "$timer" 2>/dev/null
  ((rc != 75)) || put_back
  exit "$rc"
}
with=() timer=
