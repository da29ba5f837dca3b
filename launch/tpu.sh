#!/usr/bin/env bash
# A Cloud TPU VM or pod: each command runs on all workers at once.
#   launch/tpu.sh create [--spot]
#   launch/tpu.sh install
#   launch/tpu.sh train --workdir=gs://BUCKET/RUN [any other argument of resflax.train]
#   launch/tpu.sh log | stop | delete
# DRY_RUN=1 launch/tpu.sh ... prints the commands instead.
set -euo pipefail

name=${TPU_NAME:-resflax}
zone=${ZONE:-us-west4-a}
accelerator=${ACCELERATOR_TYPE:-v5litepod-16}
runtime=${RUNTIME_VERSION:-v2-alpha-tpuv5-lite}

run() {
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { run gcloud compute tpus tpu-vm "$1" "$name" --zone="$zone" "${@:2}"; }

action=${1:-}
shift || true
case $action in
create)
  tpu create --accelerator-type="$accelerator" --version="$runtime" "$@"
  ;;
install)
  cd "$(dirname "$0")/.."
  wheel=resflax-$(sed -n 's/^__version__ = "\(.*\)"/\1/p' resflax/version.py)-py3-none-any.whl
  run python -m pip wheel --quiet --no-deps --wheel-dir=dist .
  run gcloud compute tpus tpu-vm scp "dist/$wheel" "$name:" --zone="$zone" --worker=all
  # The Python of the images is older than 3.11; uv brings one.
  tpu ssh --worker=all --command="python3 -m pip install --quiet --user uv && \
python3 -m uv venv --quiet --clear --python=3.12 venv && \
python3 -m uv pip install --quiet --python=venv/bin/python './$wheel[tpu,gcs]'"
  ;;
train)
  command=$(printf '%q ' nohup venv/bin/python -m resflax.train "$@")
  # The run outlives this connection; while it lasts, it shows the log and ends with the run's exit code.
  tpu ssh --worker=all --command=": > train.log; $command>> train.log 2>&1 < /dev/null & tail --pid=\$! -f train.log; wait \$!"
  ;;
log)
  tpu ssh --worker=0 --command="tail -n 100 -f train.log"
  ;;
stop)
  tpu ssh --worker=all --command="pkill -TERM -f '^venv/bin/python -m resflax.train'"
  ;;
delete)
  tpu delete
  ;;
*)
  sed -n '2,7s/^# *//p' "$0" >&2
  exit 2
  ;;
esac
