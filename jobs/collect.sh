#!/bin/bash
# collect.sh SWEEP OUT N: what jobs/collect.sbatch does, in the checkout's top. Merges OUT-1-of-N …
# OUT-N-of-N into OUT, prints its frontier, draws its page, and says which slices are not whole.
set -uo pipefail
(($# == 3)) || { echo "usage: $0 SWEEP OUT N" >&2; exit 2; }
sweep=$1 out=$2 slices=$3
python=/usr/bin/python3

# slice, points that it should run, points of these that need no other launch
slice_table() {
  local plan done
  plan=$(build/helix-bench plan "$sweep" --format json --slices "$slices" ${MACHINE:+--machine "$MACHINE"}) || return
  done=$(for ((i = 1; i <= slices; i++)); do
    [[ ! -e $out-$i-of-$slices/results.jsonl ]] || cat "$out-$i-of-$slices/results.jsonl"
  done | jq -cR 'fromjson? | select(.status == "skipped" or .status == "ok" and
      (.verified | . == null or (.max_rel_err != null and .max_rel_err <= .tolerance))) | .key' | jq -cs 'map({(.): true}) | add // {}')
  jq -r --argjson done "$done" '.points | group_by(.slice)[] |
    "\(.[0].slice) \(length) \(map(select($done[.key])) | length)"' <<< "$plan"
}

unfinished=()
table=$(slice_table) || exit 2
while read -r slice points finished; do
  ((finished < points)) || continue
  unfinished+=("$slice")
  echo "slice $slice of $slices: $finished of $points points done"
done <<< "$table"

$python -m analysis merge "$out" "$out"-[0-9]*-of-"$slices"
code=$?
((code != 2)) || exit 2
build/helix-bench frontier "$out/results.jsonl"
$python -m analysis report "$out" || ((code != 0)) || code=3
if ((${#unfinished[@]} > 0)); then
  IFS=,
  echo "to go on with what is missing: SLICES=$slices OUT=$out sbatch --array=${unfinished[*]} jobs/array.sbatch $sweep"
fi
exit "$code"
