#!/usr/bin/env bash
# Trains with several processes on this machine:
#
#   launch/local.sh 2 --config configs/digits_dyn.py --workdir runs/x [more of jdyn.train]
#
# Where there are NVIDIA GPUs, process i gets GPU i. If a process is killed, all are
# started again in the same workdir and go on from its last checkpoint, at most $RESTARTS
# times (default 3). SIGTERM and Ctrl-C are passed on: the state is saved, and the same
# command continues. $PYTHON names the interpreter (default python3). Needs bash 4.3.
set -uo pipefail

if [[ $# -lt 3 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: $0 PROCESSES --config FILE --workdir FOLDER [flags of jdyn.train]" >&2
  exit 2
fi
processes=$1
shift

python=${PYTHON:-python3}
pids=()
stopping=

pass_on() {
  stopping=yes
  kill -TERM "${pids[@]}" 2>/dev/null
}
trap pass_on TERM INT

free_port() {
  "$python" -c 'import socket as s; x = s.socket(); x.bind(("", 0)); print(x.getsockname()[1])'
}

# Starts all processes; returns 0 if all end well, and else the first other status.
together() {
  local status=0 address gpu=() code
  address=127.0.0.1:$(free_port)
  pids=()
  for ((i = 0; i < processes; i++)); do
    command -v nvidia-smi >/dev/null && gpu=("JAX_LOCAL_DEVICE_IDS=$i")
    env "${gpu[@]}" "$python" -m jdyn.train "$@" \
      --coordinator "$address" --num_processes "$processes" --process_id "$i" &
    pids+=($!)
  done
  while ((${#pids[@]})); do
    wait -n "${pids[@]}" # Or until a signal comes.
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" 2>/dev/null && continue
      wait "${pids[i]}"
      code=$?
      unset 'pids[i]'
      if ((code && !status)); then
        status=$code
        # The others would wait for it; those that were asked to end do so by themselves.
        [[ -z $stopping && ${#pids[@]} -gt 0 ]] && kill -KILL "${pids[@]}" 2>/dev/null
      fi
    done
  done
  return "$status"
}

for ((attempt = 0; ; attempt++)); do
  together "$@"
  status=$?
  # Above 128 a process was killed; anything else would only happen again.
  if ((status <= 128 || attempt >= ${RESTARTS:-3})) || [[ -n $stopping ]]; then
    exit "$status"
  fi
  echo "A process ended with status $status; all start again." >&2
done
