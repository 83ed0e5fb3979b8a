#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs nvcc and keeps what ptxas said of every kernel (registers, stack, spills) beside its output, so that
# scripts/spills.py can tell of a build that is done already.
#
#   scripts/nvcc.sh LOG COMMAND...
set -uo pipefail
log=$1
shift
"$@" >"$log" 2>&1
status=$?
[ "$status" = 0 ] || cat "$log" >&2
exit "$status"
