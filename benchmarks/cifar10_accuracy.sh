#!/usr/bin/env bash
# ResNet-32 on CIFAR-10 for ten epochs: one process, psedge bsp, psedge ssp with and without weight
# prediction; same samples, order, schedule, augmentation and precision. About an hour of two PC
# cores.
#
#   benchmarks/cifar10_accuracy.sh DATA OUT
#
# DATA holds cifar10.npz or the binary version of CIFAR-10; the runs are left in OUT.
set -euo pipefail
data=${1:?the folder that holds CIFAR-10}
out=${2:?a folder for the runs}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
settings=(--data "$data" --set schedule.length=10 --set model.precision=bfloat16 --set worker.threads=1
    --set compression.push=identity --set compression.pull=identity)

"$python" benchmarks/cifar10_single.py --data "$data" --epochs 10 --out "$out/single.json"
"$python" -m psedge run configs/cifar10-resnet32.toml "${settings[@]}" --out "$out/bsp" \
    --set sync.mode=bsp --set sync.weight_prediction=false \
    --set optimizer.lr=0.1 --set optimizer.momentum=0.9
"$python" -m psedge run configs/cifar10-resnet32.toml "${settings[@]}" --out "$out/ssp"
"$python" -m psedge run configs/cifar10-resnet32.toml "${settings[@]}" --out "$out/ssp-plain" \
    --set sync.weight_prediction=false --set optimizer.nesterov=false \
    --set optimizer.lr=0.05 --set optimizer.momentum=0.5 --set optimizer.momentum_adaptation=false
"$python" benchmarks/plot_accuracy.py "$out" "$out/accuracy.png"
