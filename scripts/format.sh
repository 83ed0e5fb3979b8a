#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Formats every C file of the repository in place; with --check only tells which ones would change.
set -euo pipefail
cd "$(dirname "$0")/.."

# Another version breaks lines elsewhere, so the one that Debian 12 has decides.
format=clang-format-14
command -v "$format" >/dev/null || format=clang-format
if ! command -v "$format" >/dev/null || ! "$format" --version | grep -q 'version 14\.'; then
  echo "format.sh: clang-format 14 is needed; scripts/deps.sh --dev installs it" >&2
  exit 1
fi

mode=(-i)
case ${1:-} in
  '') ;;
  --check) mode=(--dry-run -Werror) ;;
  *)
    echo "usage: scripts/format.sh [--check]" >&2
    exit 2
    ;;
esac

# Tracked files and new ones, but none that git ignores, and none that was deleted.
mapfile -d '' files < <(git ls-files -z -co --exclude-standard -- '*.c' '*.h' '*.cu' '*.cuh' |
  while IFS= read -r -d '' f; do [ ! -e "$f" ] || printf '%s\0' "$f"; done)
printf '%s\0' "${files[@]}" | xargs -0 -n 16 -P "$(nproc)" "$format" "${mode[@]}"
echo "format: ${#files[@]} files"
