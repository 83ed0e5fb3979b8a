#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# headers.sh INCLUDE_DIR: every SDK header compiles alone and twice in a row, as C11, C17 and C++17, without a warning, with
# every compiler that is here. Prints what failed; at least one compiler must be there.
set -u
include=$1
failed=0
tried=0

try() { # COMPILER STANDARD LANGUAGE HEADER
  printf '#include "tenon/%s"\n#include "tenon/%s"\n' "$4" "$4" |
    "$1" -std="$2" -x "$3" -I "$include" -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wno-sign-conversion \
      -Wundef -Werror -fsyntax-only - || {
    echo "FAILED: $1 -std=$2 $4"
    failed=$((failed + 1))
  }
  tried=$((tried + 1))
}

for header in "$include"/tenon/*.h; do
  name=$(basename "$header")
  for cc in gcc clang; do
    command -v $cc >/dev/null || continue
    try $cc c11 c "$name"
    try $cc c17 c "$name"
  done
  for cxx in g++ clang++; do
    command -v $cxx >/dev/null || continue
    try $cxx c++17 c++ "$name"
  done
done
echo "$tried tried, $failed failed"
[ $tried -gt 0 ] && [ $failed -eq 0 ]
