#!/usr/bin/env bash
# Trains on all hosts of a TPU VM slice:
#
#   launch/tpu_pod.sh NAME ZONE --config configs/mmimdb_dyn.py --workdir /mnt/shared/runs/x
#
# Every host needs this checkout in ~/jdyn with `pip install .[tpu]`, and must see the
# workdir: mount a Filestore share. A spot slice that was preempted is deleted and made
# anew where $CREATE holds the command for that, for example
#
#   CREATE='gcloud compute tpus tpu-vm create NAME --zone ZONE --spot
#     --accelerator-type v5litepod-16 --version v2-alpha-tpuv5-lite && ./set_up.sh'
#
# and training goes on in the same workdir. Without $CREATE the script ends there.
set -uo pipefail

if [[ $# -lt 4 ]]; then
  echo "usage: $0 NAME ZONE --config FILE --workdir FOLDER [flags of jdyn.train]" >&2
  exit 2
fi
name=$1
zone=$2
shift 2

tpu() {
  local verb=$1
  shift
  gcloud compute tpus tpu-vm "$verb" "$name" --zone "$zone" "$@"
}

# JAX finds the hosts out from the slice's metadata.
train="cd ~/jdyn && python3 -m jdyn.train --distributed --stopped_status=75$(printf ' %q' "$@")"

while true; do
  tpu ssh --worker=all --command="$train" && exit 0
  status=$?
  state=$(tpu describe --format='value(state)' 2>/dev/null)
  if [[ $state == READY && $status -ne 75 ]]; then
    exit "$status" # Not preempted: an error, which would only happen again.
  fi
  if [[ $state == READY ]]; then
    continue
  fi
  if [[ -z ${CREATE:-} ]]; then
    echo "$name is ${state:-gone}; set CREATE to have it made again." >&2
    exit "$status"
  fi
  echo "$name is ${state:-gone}; making it again." >&2
  tpu delete --quiet
  until bash -c "$CREATE"; do
    sleep 60
  done
done
