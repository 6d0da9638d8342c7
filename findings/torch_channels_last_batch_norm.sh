#!/usr/bin/env bash
# PyTorch 2.14.1 on a CPU: batch norm in training is hundreds of times less exact in channels_last than in plain layout.
#
# The same float32 numbers, only laid out otherwise in memory, give outputs that are up to 2e-4 away from the float64
# result where the plain layout is 7e-7 away. Nobody who turns channels_last on for speed expects other numbers in the
# fourth digit. The error falls with the number of threads, so it also differs from machine to machine; sums that run over
# pixels and pictures one after the other within a thread would explain it. By torch.var_mean the same layout is exact to
# 1e-6.
#
# Versions: torch 2.14.1 (CPU kernels, AVX-512), Python 3.11.7.
# Date: 2026-11-29.
# Output:
#     plain layout, 1 thread:   7e-07
#     channels_last, 1 thread:  2e-04
#     channels_last, 2 threads: 1e-04
#
# Run: findings/torch_channels_last_batch_norm.sh. It installs pinned packages into a temporary folder (6 GB where PyTorch
# brings CUDA), and fails if PyTorch does otherwise.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1

cat > "$folder/try.py" <<'PYTHON'
import torch

torch.manual_seed(0)
pictures = torch.randn(256, 32, 32, 32) * 2 + 3
weight, bias = torch.rand(32) + 0.5, torch.randn(32)


def norm(numbers, weight, bias):
    return torch.nn.functional.batch_norm(numbers, None, None, weight, bias, training=True)


exact = norm(pictures.double(), weight.double(), bias.double())


def error(layout, threads):
    torch.set_num_threads(threads)
    return (norm(pictures.contiguous(memory_format=layout), weight, bias) - exact).abs().max().item()


plain = error(torch.contiguous_format, 1)
last = error(torch.channels_last, 1)
two = error(torch.channels_last, 2)
print(f"plain layout, 1 thread:   {plain:.0e}")
print(f"channels_last, 1 thread:  {last:.0e}")
print(f"channels_last, 2 threads: {two:.0e}")
raise SystemExit(0 if plain < 2e-6 and last > 50 * plain and two > 20 * plain else "changed: see the head of this file")
PYTHON
"$folder/venv/bin/python" -W ignore "$folder/try.py"
