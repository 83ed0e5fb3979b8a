#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the pages of docs/ that the program generates from its own tables; with --check compares them only.
#
#   scripts/docs.sh [--check] [TENON]        TENON: the binary, build/bin/tenon if not given
set -euo pipefail
cd "$(dirname "$0")/.."

check=no
if [ "${1:-}" = --check ]; then
  check=yes
  shift
fi
tenon=${1:-build/bin/tenon}
if [ ! -x "$tenon" ]; then
  echo "docs.sh: there is no $tenon; build first: cmake --preset release && cmake --build --preset release" >&2
  exit 1
fi

stale=0
page() { # FILE, then the arguments that print it
  local file=$1 fresh
  shift
  fresh=$(mktemp)
  "$tenon" "$@" >"$fresh"
  if [ "$check" = no ]; then
    cp "$fresh" "$file"
    echo "docs: wrote $file"
  elif ! diff -u "$file" "$fresh"; then
    echo "docs: $file is not what \`tenon $*\` prints; run scripts/docs.sh and commit it" >&2
    stale=1
  fi
  rm -f "$fresh"
}

page docs/cli.md docs markdown
exit $stale
