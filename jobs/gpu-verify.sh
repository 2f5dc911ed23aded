#!/bin/bash
# The GPU executor on one card: builds it, holds it against the judge on 1, 2, 4 and 8 ranks that
# share the card (under MPS; a small part time-sliced), with graphs and without, on one rank also
# under compute-sanitizer, and times a few steps. Results go to $OUT, else results/. Arguments:
# stages (build one shared sliced wide sanitize time cards); the first six by default, `cards` where
# there is more than one. PARTS: a fraction of the cases (1: all). EXCHANGE: of ranks that share the
# card (auto: mpi). STEP_LIMIT: seconds of a stage at most.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-results}
stages=${*:-build one shared sliced wide sanitize}
program=${PROGRAM:-build/cuda/helix-bench}
parts=${PARTS:-1}
exchange=${EXCHANGE:-auto}
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
  echo "== $name: exit $code, ${SECONDS} s: $(grep -E 'VERIFIED|ERROR SUMMARY|points ok' "$out/verify-$name.log" | tail -n 1)"
  if [ $code != 0 ]; then
    failed=1
    grep -E 'FAILED|MISSED|helix-bench:|rror' "$out/verify-$name.log" | cut -c1-300 | head -n 12
  fi
}
ranks() { local n=$1; shift; tests/mpirun.sh -n "$n" "$program" "$@" -T 25; }
mps=$(command -v nvidia-cuda-mps-control >/dev/null && echo jobs/with-mps.sh || echo env)

if stage build; then
  make -j"$(nproc)" CUDA=1 cuda > "$out/verify-build.log" 2>&1 || { tail -n 30 "$out/verify-build.log"; exit 1; }
  echo "== build: ${SECONDS} s"
fi
export -f ranks; export program
! stage one || step one 200 bash -c 'ranks 1 verify --executor cuda'
! stage one || step one-eager 100 bash -c "ranks 1 verify --executor cuda --no-graph --seed 2 --part 1/4"
if stage shared; then
  step two 200 $mps bash -c "ranks 2 verify --executor cuda --exchange $exchange --part 1/$parts"
  step four 250 $mps bash -c "ranks 4 verify --executor cuda --exchange $exchange --part 1/$((4 * parts))"
  step eight 250 $mps bash -c "ranks 8 verify --executor cuda --exchange $exchange --part 1/$((16 * parts))"
fi
! stage sliced || step sliced 100 bash -c "ranks 2 verify --executor cuda --part 1/40"
! stage wide || step wide 250 $mps bash -c "ranks 4 verify --executor cuda --exchange $exchange tests/cuda/wide/sweep.json"
! stage sanitize || step memcheck 200 compute-sanitizer --tool memcheck --error-exitcode 9 \
  "$program" verify --executor cuda --part 1/24
if stage cards; then
  n=$(nvidia-smi -L | wc -l)
  step nccl 200 bash -c "ranks $n verify --executor cuda --exchange nccl --part 1/2"
  step nccl-wide 200 bash -c "ranks $n verify --executor cuda --exchange nccl tests/cuda/wide/sweep.json"
  step fused 200 bash -c "ranks $n verify --executor cuda --exchange fused --part 1/2"
  step fused-wide 200 bash -c "ranks $n verify --executor cuda --exchange fused tests/cuda/wide/sweep.json"
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
