#!/bin/bash
# submit.sh SWEEP [options of `run`]: submits a sweep; `make submit SWEEP=…` calls it. From the
# environment:
#   SLICES   cut it into so many slices of equal work, an array task each, and collect them after
#   JOB      which job of this folder (default: array with SLICES, else helix-bench)
#   SBATCH   options of sbatch; they win over the plan's
#   MACHINE  a machine's name, or file: its prices say how long points take (else bytes do, roughly)
#   OUT      where results go (default: results/ and the sweep file's name)
# The plan says how many nodes and how long, the job how many ranks a node takes. Submitting once
# more goes on with what is there.
set -euo pipefail
shopt -s extglob
cd "$(dirname "$0")/.."
source jobs/site.sh
(($# > 0)) || { echo "usage: $0 SWEEP [options of run]" >&2; exit 2; }
sweep=$1
slices=${SLICES:-1}
job=jobs/${JOB:-$( ((slices > 1)) && echo array || echo helix-bench)}.sbatch
[[ -e $job ]] || { echo "$job is not there: JOB is one of" jobs/*.sbatch >&2; exit 2; }
name=$(basename "$sweep" .json)
export OUT=${OUT:-results/$name} SLICES=$slices MACHINE=${MACHINE:-}

per_node=$(sed -n 's/^#SBATCH.*--ntasks-per-node=\([0-9]*\).*/\1/p' "$job")
# A sweep that cannot run is refused here. The memory is for nodes that are shared; these jobs take
# whole nodes.
plan=$(build/helix-bench plan "$sweep" --slurm --slices "$slices" --ranks-per-node "$per_node" ${MACHINE:+--machine "$MACHINE"})
read -ra options <<< "${plan/--mem=+([^ ])/} --job-name=$name ${SBATCH:-}"
((slices == 1)) || options+=("--array=1-$slices")

id=$(sbatch --parsable "${options[@]}" "$job" "$@")
echo "job $id: $job ${options[*]}"
((slices > 1)) || exit 0
collecting=$(sbatch --parsable --dependency="afterany:$id" --job-name="$name-collect" jobs/collect.sbatch "$sweep")
echo "job $collecting: jobs/collect.sbatch, once all slices have ended"
