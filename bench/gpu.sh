#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# All figures of a GPU in one call: decode and prefill of LLaMA-2-7B and LLaMA-3-8B shapes with random weights, in bfloat16 and
# quantized with a cache in float8_e4m3. Decode reads 1,024 tokens of context on average: prompts of 960 and 128 tokens out (256
# sequences: of 896 and 256, so that all decode at once for a while).
#
#   bench/gpu.sh [BUILD [OUT]]     BUILD is the build directory (build); OUT gets one JSON file per figure
#
# QUICK=1 leaves out what takes longest: one repeat, fewer figures. ONLY=bf16 or ONLY=quant leaves out the others.
set -euo pipefail
cd "$(dirname "$0")/.."
build=$(realpath "${1:-build}")
out=${2:-$(mktemp -d)}
mkdir -p "$out"
engines=$(mktemp -d)
trap 'rm -rf "$engines"' EXIT
tenon=$build/bin/tenon
quick=${QUICK:-0}

# value KEY FILE: a number of a result.
value() { sed -n "s/.*\"$1\": *\([-0-9.e+]*\).*/\1/p" "$2" | head -n 1; }

# figure MODEL BATCH INPUT OUTPUT [QUANT [OPTION...]]: OPTIONs are of bench latency
figure() {
  local name=$1${5:+-$5} input=$3 output=$4 repeats=3 scheme=()
  local file=$out/$name-b$2-i$3-o$4.json
  [ "$quick" = 0 ] || repeats=1
  [ -z "${5:-}" ] || scheme=(--quant "$5" --kv-cache-dtype fp8)
  [ -d "$engines/$name" ] ||
    "$tenon" build --quiet --load-format dummy --model "bench/models/$1" --output "$engines/$name" \
      --max-batch-size 256 "${scheme[@]}" 2>/dev/null
  if ! "$tenon" bench latency --json --device cuda --engine "$engines/$name" --batch-size "$2" --input-len "$input" \
    --output-len "$output" --repeats "$repeats" "${@:6}" >"$file" 2>"$file.log"; then
    printf '%-20s %5s %6s  failed: %s\n' "$name" "$2" "$3" "$(tail -n 1 "$file.log")"
    return
  fi
  printf '%-20s %5s %6s %7s %10.1f %9.3f %9.1f %9.3f %8.1f %7.3f %7.2f\n' "$name" "$2" "$3" "$4" \
    "$(value decode_tokens_per_s "$file")" "$(value decode_ms_per_step "$file")" \
    "$(value device_gb_per_s "$file")" "$(value floor_ms_per_step "$file")" "$(value prefill_ms "$file")" \
    "$(value floor_share "$file")" "$(value ready_s "$file")"
}

nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || true
printf '%-20s %5s %6s %7s %10s %9s %9s %9s %8s %7s %7s\n' model batch input output tokens/s ms/step GB/s floor-ms \
  prefill floor ready-s
if [ "${ONLY:-bf16}" = bf16 ]; then
  figure llama-2-7b 1 960 128
  figure llama-2-7b 16 960 128
  if [ "$quick" = 0 ]; then
    figure llama-2-7b 64 960 128
    for batch in 1 16 64; do figure llama-3-8b $batch 960 128; done
  fi
  figure llama-2-7b 1 2048 8
fi
if [ "${ONLY:-quant}" = quant ]; then
  for quant in fp8 int8_sq int4_g128; do
    figure llama-2-7b 1 960 128 $quant
    figure llama-2-7b 16 960 128 $quant
    [ "$quick" = 1 ] || figure llama-2-7b 64 960 128 $quant
    figure llama-2-7b 1 2048 8 $quant
  done
  [ "$quick" = 1 ] || figure llama-2-7b 256 896 256 fp8 # needs more than 80 GB
fi
echo "results in $out"
