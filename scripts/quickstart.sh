#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian 12 to generated text: packages, build, an engine from the bundled checkpoint, one prompt.
# A few minutes on two cores. It may be run again: what is done already is not done twice.
#
#   scripts/quickstart.sh [PROMPT]
set -euo pipefail
cd "$(dirname "$0")/.."

prompt=${1:-The PostgreSQL server}
log=build/quickstart.log

say() { printf '\n== %s\n' "$*"; }

# Shows the command and runs it.
show() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  "$@"
}

# The same, with its output in a file; the end of that is shown only if it fails.
quiet() {
  printf '$'
  printf ' %q' "$@"
  printf '\n'
  if ! "$@" >>"$log" 2>&1; then
    tail -n 40 "$log" >&2
    echo "quickstart: this failed; all of its output is in $log" >&2
    exit 1
  fi
}

say "1/4 Debian packages"
show scripts/deps.sh

say "2/4 Build (release)"
mkdir -p build engines
printf '*\n' >engines/.gitignore
: >"$log"
quiet cmake --preset release
quiet cmake --build --preset release

say "3/4 An engine from the bundled checkpoint (7 million parameters, trained on software documentation)"
show build/bin/tenon build --model models/docs-7m --output engines/docs-7m

say "4/4 Generate"
show build/bin/tenon run --engine engines/docs-7m --prompt "$prompt" --max-tokens 64 --stream

cat <<'END'

Next:
  build/bin/tenon --help                                        all commands
  build/bin/tenon plugin explain --engine engines/docs-7m       which kernel runs each op, and why
  docs/architecture.md, CONTRIBUTING.md                         how it works, and how to change it
END
