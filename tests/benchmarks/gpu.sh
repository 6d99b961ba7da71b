#!/usr/bin/env bash
# Measure extraction and training on a GPU: bash tests/benchmarks/gpu.sh VIDEOS WEIGHTS OUT
# VIDEOS has a folder per class, WEIGHTS are those of bvlc_googlenet, and OUT is a new folder for a store and a run.
# The variables below change device and sizes; a test runs small ones on the CPU.
set -euo pipefail
videos=$(realpath "$1") weights=$(realpath "$2") out=$(realpath -m "$3")
cd "$(dirname "$0")/../.."
: "${DEVICE:=cuda}" "${BATCH:=256}" "${SAMPLING:=--fps 15 --frames 15}" "${FEATURES:=7 1024 30}" "${ITERATIONS:=3}"
: "${TRAINING:=--preset paper --clips 256 --rollouts 4 --frames 15 --updates 20}"
: "${ON_DEVICE:=--preset paper --clips 256 --rollouts 4}" "${ON_CPU:=--preset paper --clips 8 --rollouts 4}"

step() {
    printf '\n== %s (after %s s)\n' "$1" "$SECONDS"
    shift
    "$@"
}

# Words of the variables are flags.
# shellcheck disable=SC2086
{
    python -c 'import torch; print(torch.__version__, *map(torch.cuda.get_device_name, range(torch.cuda.device_count())))'
    extraction=(folder --videos "$videos" --weights "$weights" --out "$out/store" --device "$DEVICE" --batch-size "$BATCH" $SAMPLING)
    step "network and decoders alone" python tests/benchmarks/bare_speed.py "${extraction[@]}"
    step "extraction" python -m glimpse_env.extract "${extraction[@]}"
    step "training on the store, features on the device" python agents/reinforce.py --source "$out/store" --out "$out/run" \
        --models reinforce --device "$DEVICE" $TRAINING
    step "rollout and update on the device" python tests/benchmarks/profile_training.py --device "$DEVICE" $ON_DEVICE \
        --synthetic-features $FEATURES --iterations "$ITERATIONS" --json "$out/device.json"
    step "rollout and update on two cores" env OMP_NUM_THREADS=2 python tests/benchmarks/profile_training.py $ON_CPU \
        --synthetic-features $FEATURES --iterations "$ITERATIONS" --json "$out/cpu.json"
    step "clips per second, device over two cores" python -c "
import json, sys
device, cpu = (json.load(open(path))['clips_per_second'] for path in sys.argv[1:])
print(f'{device:.1f} / {cpu:.1f} = {device / cpu:.1f} times')" "$out/device.json" "$out/cpu.json"
}
