#!/bin/bash
# The exchanges between ranks' GPUs: builds, checks them against their plain twins on 2, 4 and 8
# ranks that share one card (under MPS), with one rank a card where there are several, and times
# them, beside NCCL where each rank has its own card. Results go to $OUT, else results/.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-results}
mkdir -p "$out"
export NCCL_NVLS_ENABLE=0
program=build/cuda/tests/cuda/mpi/exchange_test
failed=0

step() {  # name, seconds, command…: its output goes to a log, its end to the terminal
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$@" > "$out/exchange-$name.log" 2>&1
  local code=$?
  echo "== $name: exit $code, ${SECONDS} s: $(grep -E 'checks, [0-9]+ failed' "$out/exchange-$name.log")"
  if [ $code != 0 ]; then failed=1; grep -v '^ok' "$out/exchange-$name.log" | tail -n 15; fi
}

step build 300 make -f tests/cuda.mk -j"$(nproc)" $program
cards=$(nvidia-smi --list-gpus | wc -l)
if [ "$cards" -gt 1 ]; then
  step own-cards 100 tests/mpirun.sh -n "$cards" $program --time
fi
export CUDA_VISIBLE_DEVICES=0
for ranks in 2 4 8; do
  step "shared-$ranks" 100 jobs/with-mps.sh tests/mpirun.sh -n $ranks $program --time
done
step memcheck 150 tests/mpirun.sh -n 2 compute-sanitizer --tool memcheck --error-exitcode 9 $program --quick
grep -h '^{' "$out"/exchange-*.log
exit $failed
