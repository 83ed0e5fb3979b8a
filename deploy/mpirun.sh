#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A run over two hosts under Open MPI: tensor parallel inside of each host, pipeline parallel between them.
#
#   deploy/mpirun.sh HOST_A HOST_B ENGINE [arguments of tenon run]
#
# The same Tenon and the same engine lie at the same paths on both hosts. mpirun starts one process per rank; process 0, on
# HOST_A, has the scheduler and takes the prompt. The processes agree on a fresh key over MPI's own channel, so no port is open
# to anybody who did not come with the run.
set -euo pipefail

[ $# -ge 3 ] || {
  sed -n '3,10s/^# \{0,1\}//p' "$0"
  exit 2
}
a=$1 b=$2 engine=$3
shift 3

# --map-by slot fills HOST_A first, so that ranks 0 and 1 (the last pipeline stage, where logits arise) are there.
# PATH travels along; nothing else of the environment is needed.
exec mpirun -n 4 --host "$a:2,$b:2" --map-by slot -x PATH \
  tenon run --engine "$engine" --tp-size 2 --pp-size 2 "$@"
