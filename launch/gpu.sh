#!/usr/bin/env bash
# make gpu: all that a machine with a GPU should produce, in order of worth, within BUDGET_MINUTES; run it again to go on.
#   python -m resflax.prepare cifar10 --npz=cifar10.npz     # once, on any machine; with the extra `prepare`
#   DATA=cifar10.npz BUDGET_MINUTES=30 make gpu
# AT_ONCE trains so many runs of reproduce side by side (1): the networks of CIFAR do not fill a large GPU. On an H100 or the
# like 2 to 4 are to be tried; compare the sum of the runs' images_per_second. Benchmarks always run alone.
# BENCHMARK adds options to the benchmarks, after the script's own: --steps=1 --repeats=2 on a slow machine.
# Needs JAX, Flax, Optax, Orbax, NumPy, Pillow, matplotlib and rich, and PyTorch and timm for their rows; neither tfds nor
# TensorFlow. PYTHON names the interpreter.
# Records are left in RESULTS (runs/gpu): benchmarks/, results/ with RESULTS.md beside it.
# DRY_RUN=1 prints the commands instead.
set -uo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
data=${DATA:-cifar10.npz}
results=${RESULTS:-runs/gpu}
end=$((60 * ${BUDGET_MINUTES:-30}))
failed=0
SECONDS=0

# stage PERCENT COMMAND...: gives the command a share of the time that is left; %MINUTES% in it becomes that share.
stage() {
  local seconds=$(((end - SECONDS) * $1 / 100))
  shift
  local command=("${@//%MINUTES%/$(((seconds + 59) / 60))}")
  if [[ -n ${DRY_RUN:-} ]]; then
    printf '%q ' "${command[@]}"
    echo
    return
  fi
  if ((seconds < 1)); then
    echo "[$SECONDS s] no time is left for: ${command[*]}" >&2
    return
  fi
  echo "[$SECONDS s] ${command[*]}" >&2
  # A run that reproduce stops at its budget still has to be saved: two minutes of grace.
  timeout --signal=TERM --kill-after=60 $((seconds + 120)) "${command[@]}"
  local code=$?
  if ((code != 0)); then
    echo "[$SECONDS s] exit code $code" >&2
    failed=1
  fi
}

reproduce() {
  stage "$1" "$python" -m resflax.reproduce "${@:2}" --budget_minutes=%MINUTES% --at_once="${AT_ONCE:-1}" \
    --workdir="$results" --results="$results/results"
}

# benchmark PERCENT TASK RECORD OPTION...
benchmark() {
  stage "$1" "$python" -m resflax.benchmark "$2" "${@:4}" "${extra[@]}" --output="$results/benchmarks/$3.json"
}

read -ra extra <<<"${BENCHMARK:-}"
cifar=(--config.data.name="$data")
if [[ ! -e $data && -z ${DRY_RUN:-} ]]; then
  echo "DATA must name CIFAR-10 as an .npz, but there is no $data; make it with python -m resflax.prepare cifar10 --npz=$data" >&2
  exit 2
fi
stage 10 "$python" -m resflax.benchmark gradients --output="$results/benchmarks/gradients.json"
reproduce 35 experiments/he2015_cifar.py --seeds=1 --rows="${ROWS:-resnet20,plain20,resnet56,plain56,resnet32,resnet44,resnet110}" "${cifar[@]}"

# Against others. A round of A B A B should take about a second: 300 steps of ResNet-20, 20 of ResNet-50.
small=(--steps=300) large=(--model=resnet50 --precision=bfloat16 --batch_size=256)
benchmark 15 train train-float32 "${small[@]}" --against=linen,torch,torch-graphs
benchmark 25 train train-resnet50 "${large[@]}" --steps=20 --against=timm,timm-compile
benchmark 15 infer infer-resnet50 --model=resnet50 --batch_size=256 --against=timm,timm-compile,unfolded
benchmark 15 checkpoint checkpoint-resnet50 "${large[@]}" --repeats=2
reproduce 25 experiments/cifar10_speedrun.py --rows=gpu --seeds=20 "${cifar[@]}"
benchmark 10 infer infer-resnet50-bfloat16 "${large[@]}" --against=timm,timm-compile,unfolded
benchmark 10 train train-bfloat16 "${small[@]}" --precision=bfloat16 --against=torch,torch-graphs
benchmark 10 start start --repeats=3 --against=
benchmark 10 checkpoint checkpoint --repeats=3

# Our step in other forms, each beside the default: docs/performance.md says what each is predicted to give.
graphs=command_buffer_none,command_buffer_conv,command_buffer_while,conv_fusion,conv_fusion+command_buffer_while
benchmark 25 train train-forms "${small[@]}" --against="stepwise,closed_form,double_buffering,$graphs"
benchmark 35 train train-resnet50-forms "${large[@]}" --steps=20 \
  --against=closed_form,space_to_depth,conv_fusion,closed_form+space_to_depth,closed_form+space_to_depth+conv_fusion
benchmark 15 train train-scan-forms "${small[@]}" --model=cifar_resnet110 --against=scan,scan+double_buffering,scan+dynamic_slice_fusion

reproduce 60 experiments/he2015_cifar.py --seeds=5 "${cifar[@]}"
reproduce 90 experiments/batch_norm_group.py --seeds=5 "${cifar[@]}"
if [[ -n ${DRY_RUN:-} ]] || compgen -G "$results/results/*.json" >/dev/null; then
  stage 100 "$python" -m resflax.report "$results/results"
fi
exit "$failed"
