#!/bin/bash
# Builds the GPU kernels, checks them against their plain twins (also under compute-sanitizer) and
# times them beside their peers. Needs nvcc and a GPU; the peers need PyTorch and are left out
# without. Results go to $OUT, else results/. Arguments: stages (build check sanitize time peers);
# all by default. TIME_ONLY=word: only the cases that have it. COMMIT: where there is no git.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-results}
stages=${*:-build check sanitize time peers}
mkdir -p "$out"
failed=0
commit=${COMMIT:-$(git describe --always --dirty 2>/dev/null || echo unknown)}

stage() { [[ " $stages " == *" $1 "* ]]; }
step() {  # name, seconds, command…: its output goes to a log, its end to the terminal
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$@" > "$out/gpu-$name.log" 2>&1
  local code=$?
  echo "== $name: exit $code, ${SECONDS} s"
  if [ $code != 0 ]; then failed=1; grep -v '^ok' "$out/gpu-$name.log" | tail -n 40; fi
}

! stage build || step build 300 make -f tests/cuda.mk -j"$(nproc)" cuda
programs=build/cuda/tests
! stage check || { step check 200 $programs/cuda/kernels_test; tail -n 1 "$out/gpu-check.log"; }
! stage sanitize || for tool in memcheck racecheck synccheck; do
  step $tool 150 compute-sanitizer --tool $tool --error-exitcode 9 $programs/cuda/kernels_test --quick
  tail -n 1 "$out/gpu-$tool.log"
done
if stage time; then
  { printf '{"case": "environment", "commit": "%s", "gpu": "%s", "cuda": "%s", "date": "%s"}\n' "$commit" \
      "$(nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem --format=csv,noheader | head -n 1)" \
      "$(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')" "$(date -u +%F)"
    timeout 250 $programs/bench/cuda_kernels "${TIME_ONLY:-}"; } > "$out/gpu-kernels.jsonl" || failed=1
  echo "== time: ${SECONDS} s"
fi
! stage peers || timeout 250 python3 tests/bench/cuda_peers.py > "$out/gpu-peers.jsonl" || echo "peers: incomplete"
[ ! -s "$out/gpu-kernels.jsonl" ] || python3 tests/bench/cuda_table.py "$out" | tee "$out/gpu-kernels.md"
exit $failed
