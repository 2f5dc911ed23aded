#!/bin/bash
# The GPU executor: builds it, holds it against the judge on one rank, on 2, 4 and 8 ranks that share
# a card (under MPS; a small part time-sliced), over each exchange, half of the steps as graphs and
# half task by task; tokens of the CPU executor beside its own; whole steps under compute-sanitizer;
# a rank that stops; what a card can lack; and a few steps timed.
# Results go to $OUT, else results/. Arguments: stages (build one tokens shared sliced wide sanitize
# stop faults time cards); all but the last two by default, `cards` where there is more than one.
# PARTS: a fraction of the cases (1: all). STEP_LIMIT: seconds of a step at most.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-results}
stages=${*:-build one tokens shared sliced wide sanitize stop faults}
program=${PROGRAM:-build/cuda/helix-bench}
parts=${PARTS:-1}
STEP_LIMIT=${STEP_LIMIT:-0}
mkdir -p "$out"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
failed=0
export HELIX_BENCH_CONFIGS=$PWD/configs
[ -z "${DEPS_DIR:-}" ] || export LD_LIBRARY_PATH=$(ls -d "$DEPS_DIR"/usr/lib/*/ "$DEPS_DIR"/usr/lib/*/openblas-pthread | tr '\n' ':')${LD_LIBRARY_PATH:-}

stage() { [[ " $stages " == *" $1 "* ]]; }
step() {  # name, seconds, command…: its output goes to a log, its end to the terminal
  local name=$1 limit=$((STEP_LIMIT > 0 && STEP_LIMIT < $2 ? STEP_LIMIT : $2)) code
  shift 2
  timeout "$limit" "$@" > "$out/verify-$name.log" 2>&1
  code=$?
  echo "== $name: exit $code, ${SECONDS} s: $(grep -E 'VERIFIED|ERROR SUMMARY|points ok|tokens the same|faults passed' "$out/verify-$name.log" | tail -n 1)"
  if [ $code != 0 ]; then
    failed=1
    grep -E 'FAILED|MISSED|helix-bench:|rror' "$out/verify-$name.log" | cut -c1-300 | head -n 12
  fi
}
ranks() { local n=$1; shift; tests/mpirun.sh -n "$n" "$program" "$@" -T 25; }
mps=$(command -v nvidia-cuda-mps-control >/dev/null && echo jobs/with-mps.sh || echo env)

if stage build; then
  make -j"$(nproc --all)" CUDA=1 cuda > "$out/verify-build.log" 2>&1 || { tail -n 30 "$out/verify-build.log"; exit 1; }
  echo "== build: ${SECONDS} s"
fi
export -f ranks; export program mps out
! stage one || step one 200 bash -c 'ranks 1 verify --executor cuda'
! stage one || step one-eager 100 bash -c "ranks 1 verify --executor cuda --no-graph --seed 2 --part 1/4"
# One point decoded by both executors.
tokens() {
  local model=$1 point=$out/tokens-$1.json executor
  echo '{"schema": "helix-bench/sweep/1", "name": "tokens", "model": "'"$model"'", "strategy": "tp", "ranks": 1,
    "batch": 4, "context": 500, "steps": 32, "precision": {"weights": "bf16", "kv": "bf16", "activations": "bf16"}}' > "$point"
  for executor in cpu cuda; do
    rm -rf "$out/tokens-$executor"
    OMP_NUM_THREADS=$cores tests/mpirun.sh -n 1 "$program" export "$point" -o "$out/tokens-$executor" \
      --no-model --executor $executor || return
  done
  python3 tests/cuda/same_tokens.py "$out/tokens-cpu" "$out/tokens-cuda"
}
if stage tokens; then
  cores=$(nproc --all)
  export cores
  export -f tokens
  for model in tiny-llama tiny-deepseek tiny-qwen3-moe llama-3.2-1b; do
    step tokens-$model 100 bash -c "tokens $model"
  done
fi
# Both exchanges of ranks that share a card, on `n` ranks: that part of the cases.
both() {
  local name=$1 n=$2 fused=$3 mpi=$4
  step "$name-fused" 200 $mps bash -c "ranks $n verify --executor cuda --exchange fused --part 1/$((fused * parts))"
  step "$name-mpi" 100 $mps bash -c "ranks $n verify --executor cuda --exchange mpi --seed 2 --part 1/$((mpi * parts))"
}
if stage shared; then
  both two 2 1 2
  both four 4 2 8
  both eight 8 6 24
fi
if stage sliced; then
  for exchange in mpi fused; do
    step sliced-$exchange 60 bash -c "ranks 2 verify --executor cuda --exchange $exchange --part 1/40"
  done
fi
if stage wide; then
  for sweep in sweep quantised; do
    step wide-$sweep 100 $mps bash -c "ranks 4 verify --executor cuda --exchange fused tests/cuda/wide/$sweep.json"
  done
  # More than eight rows, which cuBLASLt multiplies but where a kernel waits for ranks of this card.
  # Of two layers: four like wide-deepseek's would be off by more than bf16 is allowed, by rounding
  # alone (results/published/rounding.md).
  step wide-batch 100 $mps bash -c "ranks 4 verify --executor cuda --exchange mpi tests/cuda/wide/batch.json"
fi
if stage sanitize; then
  for tool in memcheck synccheck racecheck; do
    step $tool 150 compute-sanitizer --tool $tool --error-exitcode 9 \
      "$program" verify --executor cuda --part 1/$([ $tool = racecheck ] && echo 10 || echo 5)
  done
  step memcheck-two 120 tests/mpirun.sh -n 2 compute-sanitizer --tool memcheck --error-exitcode 9 \
    "$program" verify --executor cuda --exchange fused --part 1/40
fi
# A rank that no longer answers while the kernels of others wait for it: those name it, all end
# within 20 s, and none is left.
stopped() {
  local job victim began
  rm -rf "$out/stopped"
  $mps bash -c "ranks 8 run configs/sweeps/gpu-eight.json --executor cuda --exchange fused --no-verify -n 20000 -o $out/stopped" &
  job=$!
  sleep 15  # they measure steps
  victim=$(pgrep -nf "^$program run configs/sweeps/gpu-eight") && kill -STOP "$victim" || return 1
  began=$SECONDS
  wait $job
  echo "exit $?, $((SECONDS - began)) s after rank process $victim was stopped"
  ((SECONDS - began <= 20)) && ! pgrep -f "^$program run configs/sweeps/gpu-eight"
}
if stage stop; then
  export -f stopped
  step stop 90 bash -c stopped
  grep -q 'nothing came from rank' "$out/verify-stop.log" || { failed=1; echo "   no rank was named"; }
fi
# No card, no IPC, too little memory…; and what users look at there: doctor, traces, noise.
! stage faults || step faults 90 python3 tests/cuda/faults.py "$program" "$out/faults"
if stage cards; then
  n=$(nvidia-smi -L | wc -l)
  step nccl 200 bash -c "ranks $n verify --executor cuda --exchange nccl --part 1/2"
  step nccl-wide 200 bash -c "ranks $n verify --executor cuda --exchange nccl tests/cuda/wide/sweep.json"
  step fused 200 bash -c "ranks $n verify --executor cuda --exchange fused --part 1/2"
  step fused-wide 200 bash -c "ranks $n verify --executor cuda --exchange fused tests/cuda/wide/sweep.json"
  step fused-ipc 100 env HELIX_BENCH_PEER_MEMORY=ipc bash -c "ranks $n verify --executor cuda --exchange fused --part 1/8"
  step fused-no-ipc 100 tests/mpirun.sh -n "$n" env LD_PRELOAD="$(dirname "$program")/tests/cuda/faulty_driver.so" FAULT=ipc \
    "$program" verify --executor cuda --exchange fused --part 1/8 -T 25
  step fused-batch 200 bash -c "ranks $n verify --executor cuda --exchange fused tests/cuda/wide/batch.json"
  step own-cards-mpi 100 bash -c "ranks $n verify --executor cuda --exchange mpi --part 1/8"
fi
if stage time; then
  rm -rf "$out/gpu"
  step run 250 bash -c "ranks 1 run ${SWEEP:-configs/sweeps/gpu-one.json} --executor cuda -o $out/gpu ${RUN:-}"
  python3 - "$out/gpu/results.jsonl" <<'END' | tee "$out/gpu.txt"
import json, sys
for line in map(json.loads, open(sys.argv[1])):
    p = line['point']
    if line['status'] != 'ok':
        print(p['model'], p['batch'], p['context'], line['status'], line['reason'])
        continue
    ttl, r = line['ttl_us'], line['roofline']
    print(f"{p['model']} batch {p['batch']} context {p['context']} {line['exchange']} hop_b {p['hop_b']}: "
          f"TTL {ttl['median']:.0f} us ({ttl['min']:.0f} to {ttl['max']:.0f}), floor {r['floor_us']:.0f} us, "
          f"share {r['share']:.2f}, error {line['verified'] and line['verified']['max_rel_err']}")
    top = sorted(line['tasks_us'].items(), key=lambda t: -t[1])[:12]
    print('   ', ', '.join(f"{name} {us:.0f}" for name, us in top), f"; sum {sum(line['tasks_us'].values()):.0f}")
END
fi
exit $failed
