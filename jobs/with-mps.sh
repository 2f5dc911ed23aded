#!/bin/bash
# with-mps.sh COMMAND…: starts a private MPS on this node, runs the command under it, stops it, and
# exits as the command did. TERM, INT and USR1 are passed on to the command. Exits 2 without a
# command or without MPS, 3 when MPS does not start.
set -uo pipefail
say() { echo "with-mps.sh: $*" >&2; }
(($# > 0)) || { say "usage: $0 COMMAND…"; exit 2; }
control=nvidia-cuda-mps-control
command -v $control >/dev/null || { say "$control is not there: it comes with the GPU driver"; exit 2; }

# /tmp, because the paths of sockets must be short.
folder=$(mktemp -d /tmp/mps-XXXXXX) || exit 3
export CUDA_MPS_PIPE_DIRECTORY=$folder/pipe CUDA_MPS_LOG_DIRECTORY=$folder/log
mkdir "$CUDA_MPS_PIPE_DIRECTORY" "$CUDA_MPS_LOG_DIRECTORY" || exit 3

# Processes that were started with this pipe directory: the daemon and its servers.
daemons() {
  grep -lszx "CUDA_MPS_PIPE_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY" /proc/[0-9]*/environ |
    cut -d/ -f3 | while read -r pid; do
      case $(tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline") in *nvidia-cuda-mps-*) echo "$pid" ;; esac
    done
}
stop() {
  echo quit | timeout 10 $control >/dev/null 2>&1
  local pid i
  for ((i = 0; i < 50; i++)); do [[ -n $(daemons) ]] || break; sleep 0.1; done
  for pid in $(daemons); do
    say "MPS did not quit: killing process $pid"
    kill -KILL "$pid" 2>/dev/null
  done
  rm -rf "$folder"
}
trap stop EXIT

timeout 30 $control -d > "$folder/start.log" 2>&1 || {
  say "$control -d failed (exit $?): $(tail -n 1 "$folder/start.log")"
  exit 3
}
for ((i = 0; i < 50; i++)); do  # answers once it is up
  echo get_server_list | timeout 5 $control >/dev/null 2>&1 && break
  sleep 0.1
done
((i < 50)) || { say "MPS does not answer: $(tail -qn 1 "$CUDA_MPS_LOG_DIRECTORY"/*.log 2>/dev/null)"; exit 3; }

# Under MPS the cards that the daemon sees are counted from 0.
if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
  seen=${CUDA_VISIBLE_DEVICES//[^,]/}
  CUDA_VISIBLE_DEVICES=$(seq -s, 0 ${#seen})
  export CUDA_VISIBLE_DEVICES
fi
"$@" &
running=$!
# INT as TERM: a shell in the background ignores INT.
trap 'kill -TERM $running 2>/dev/null' TERM INT
trap 'kill -USR1 $running 2>/dev/null' USR1
# A signal ends `wait`, with its own code; the last one gives the command's, however often asked.
while kill -0 $running 2>/dev/null; do wait $running; done
wait $running
