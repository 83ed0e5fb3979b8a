#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The one test command: installs what it needs, then runs everything that can be checked on this machine. Needs
# neither a GPU nor CUDA. About half an hour on two cores.
#
#   scripts/check.sh                    all stages
#   scripts/check.sh format walls test  these, with the stages that they rest on
#   scripts/check.sh --list             their names
#
# Output goes to build/check/STAGE.log; of a stage that fails, the end is shown, and the other stages run on. The last
# line counts the stages; the exit status is 0 if none failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

jobs=$(nproc)
logs=$PWD/build/check
venv=$PWD/build/venv
python=$(command -v /usr/bin/python3 || command -v python3)

# -- Stages: a function each; the first line of --list's text is the comment --------------------------------------

stages=(deps format walls shell python build test docs install sanitize sanitize_test tidy cuda)

declare -A about=(
  [deps]="Debian packages are installed"
  [format]="clang-format 14 has nothing to change"
  [walls]="includes keep to the floors; sizes, licence lines, unfinished marks"
  [shell]="shellcheck has nothing to say"
  [python]="virtual environment for the differential tests"
  [build]="release build, warnings are errors"
  [test]="all tests, release build"
  [docs]="generated pages are up to date, the others agree with the code"
  [install]="an installed copy works on its own"
  [sanitize]="build with address and undefined-behaviour sanitizers"
  [sanitize_test]="all tests under the sanitizers"
  [tidy]="clang-tidy finds no bug"
  [cuda]="the CUDA plugin was built, where nvcc is"
)

declare -A needs=(
  [format]=deps [shell]=deps [python]=deps [build]="deps python" [test]=build [docs]=build [install]=build
  [sanitize]="deps python" [sanitize_test]=sanitize [tidy]=build [cuda]=build
)

readonly SKIPPED=77 # what a stage returns that has nothing to do here; it says why

stage_deps() { scripts/deps.sh --dev; }

stage_format() { scripts/format.sh --check; }

stage_walls() { "$python" tests/walls.py --self-test && "$python" tests/walls.py; }

stage_shell() { git ls-files -z '*.sh' .ci/run | xargs -0 shellcheck; }

stage_python() {
  if ! cmp -s scripts/requirements.txt "$venv/requirements.txt"; then
    rm -rf "$venv" && "$python" -m venv "$venv" &&
      "$venv/bin/pip" install -q --disable-pip-version-check --no-input -r scripts/requirements.txt &&
      cp scripts/requirements.txt "$venv/requirements.txt" || return 1
  fi
  "$venv/bin/python" -c 'import jinja2, numpy, safetensors, tokenizers, transformers
print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)'
}

configure_and_build() { # PRESET, then more options of cmake
  local preset=$1 other=
  shift
  [ ! -f "$venv/requirements.txt" ] || other=$venv/bin/python
  cmake --preset "$preset" -DTENON_TESTS=ON -DTENON_WERROR=ON -DTENON_PYTHON="$other" "$@" &&
    cmake --build --preset "$preset"
}

stage_build() { configure_and_build release; }

stage_test() { ctest --preset release -j "$jobs" --no-tests=error; }

stage_docs() { "$python" scripts/docs.py --check; }

# Device code cannot be instrumented, and takes long to compile: the plugins' code on the host is tested without it.
stage_sanitize() { configure_and_build sanitize -DTENON_CUDA_HOST=ON; }

stage_sanitize_test() { ctest --preset sanitize -j "$jobs" --no-tests=error; }

# An installation is complete if it can build an engine and run it, find its plugins, and let a stranger's program
# compile against it, all without this tree.
stage_install() {
  local root=$PWD prefix=$logs/prefix work=$logs/install pkgs
  rm -rf "$prefix" "$work" && mkdir -p "$work" && cmake --install build --prefix "$prefix" >"$work/files" || return 1
  (
    set -e
    cd "$work"
    export PATH=$prefix/bin:/usr/bin:/bin
    pkgs=$(dirname "$(find "$prefix" -name tenon.pc | head -n 1)")
    export PKG_CONFIG_PATH=$pkgs
    tenon --version
    tenon plugin list
    tenon build --quiet --model "$root/models/docs-7m" --output engine
    tenon run --engine engine --prompt "The PostgreSQL server" --max-tokens 8
    # shellcheck disable=SC2046 # flags are words
    gcc -std=c17 -Wall -Wextra -Werror "$root/examples/generate.c" -o generate \
      $(pkg-config --cflags --libs tenon) -Wl,-rpath,"$(dirname "$pkgs")"
    ./generate engine 8 8187 433 4049 1092
    for h in tenon.h tenon_text.h tenon/; do
      [ -e "$prefix/include/$h" ]
    done
    # shellcheck disable=SC2046
    printf '#include <tenon_text.h>\nint main(void) { tn_text_free(0); return 0; }\n' >text.c &&
      gcc -std=c17 -Wall -Wextra -Werror text.c -o text $(pkg-config --cflags --libs tenon-text) \
        -Wl,-rpath,"$(dirname "$pkgs")" && ./text
    for h in "$prefix"/include/tenon/*.h; do
      echo "#include <tenon/$(basename "$h")>" >one.c
      gcc -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$prefix/include" -fsyntax-only one.c
      g++ -x c++ -std=c++17 -Wall -Wextra -Werror -I"$prefix/include" -fsyntax-only one.c
    done
  )
}

# Files of the repository in the release build, once each. Errors fail; advice (see .clang-tidy) is counted.
stage_tidy() {
  local rc=0 advice
  "$python" - "$PWD" <<'PY' >"$logs/tidy.files" || return 1
import json, os, sys
root = sys.argv[1]
commands = json.load(open("build/compile_commands.json"))
files = {os.path.normpath(os.path.join(c["directory"], c["file"])) for c in commands}
keep = ("core", "text", "apps", "plugins", "sdk", "bench", "examples")
for f in sorted(files):
    if os.path.relpath(f, root).split(os.sep)[0] in keep:
        print(f)
PY
  xargs -a "$logs/tidy.files" -n 1 -P "$jobs" \
    clang-tidy --quiet -p build --extra-arg=-Wno-unknown-warning-option >"$logs/tidy.out" 2>"$logs/tidy.err" || rc=1
  if [ $rc -ne 0 ]; then
    grep -A 4 'error:' "$logs/tidy.out"
    grep -v 'warnings\{0,1\} generated\|^Suppressed\|^Use -header-filter' "$logs/tidy.err"
  fi
  advice=$(grep -c 'warning:' "$logs/tidy.out")
  echo "tidy: $(wc -l <"$logs/tidy.files") files, $advice pieces of advice in build/check/tidy.out"
  return $rc
}

# Where nvcc is, the release build compiles the CUDA plugin with it. To run its kernels takes a GPU, so that is not here.
stage_cuda() {
  if [ -z "$(git ls-files 'plugins/*.cu')" ]; then
    echo "there are no CUDA sources in the tree"
    return $SKIPPED
  fi
  if ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
    echo "nvcc is not here"
    return $SKIPPED
  fi
  build/bin/tenon plugin list
  [ -e build/lib/tenon/plugins/cuda.so ]
}

# -- Running them ---------------------------------------------------------------------------------------------------

usage() { sed -n '3,11s/^# \{0,1\}//p' "$0"; }

list() {
  for s in "${stages[@]}"; do
    printf '%-14s %s\n' "$s" "${about[$s]}"
  done
}

declare -A wanted=() result=() seconds=()

want() {
  local n
  for n in ${needs[$1]:-}; do want "$n"; done
  wanted[$1]=1
}

# Why a stage cannot run: the first of those it rests on that failed. Without `python` the build leaves out the
# differential tests, but the rest is still worth running.
broken_base() {
  local n
  for n in ${needs[$1]:-}; do
    [ "$n" != python ] || continue
    case ${result[$n]:-} in
      failed | blocked)
        echo "$n"
        return
        ;;
    esac
  done
}

run_stage() {
  local s=$1 base start=$SECONDS rc
  base=$(broken_base "$s")
  if [ -n "$base" ]; then
    result[$s]=blocked
    echo "== $s: not run, because $base failed"
    return
  fi
  echo "== $s: ${about[$s]}"
  "stage_$s" >"$logs/$s.log" 2>&1 </dev/null
  rc=$?
  seconds[$s]=$((SECONDS - start))
  case $rc in
    0) result[$s]=passed ;;
    "$SKIPPED") result[$s]=skipped ;;
    *) result[$s]=failed ;;
  esac
  if [ "${result[$s]}" = failed ]; then
    # What tests and sanitizers say of a failure may lie far above the end.
    grep -E -A 3 ':[FE]:|ERROR: [A-Za-z]*Sanitizer|runtime error:|Traceback|\*\*\*(Timeout|Failed)' "$logs/$s.log" |
      head -n 60 | sed 's/^/   > /'
    tail -n 80 "$logs/$s.log" | sed 's/^/   | /'
  else
    tail -n 1 "$logs/$s.log" | sed 's/^/   /'
  fi
  echo "   ${result[$s]} after ${seconds[$s]} s"
}

summary() {
  local s passed=0 failed=0 skipped=0
  echo
  echo "stage          result    seconds"
  for s in "${stages[@]}"; do
    [ -n "${wanted[$s]:-}" ] || continue
    printf '%-14s %-9s %7s\n' "$s" "${result[$s]}" "${seconds[$s]:--}"
    case ${result[$s]} in
      passed) passed=$((passed + 1)) ;;
      skipped) skipped=$((skipped + 1)) ;;
      *) failed=$((failed + 1)) ;;
    esac
  done
  printf '%-14s %-9s %7d\n\n' all '' "$SECONDS"
  echo "$passed passed, $failed failed, $skipped skipped"
  [ "$failed" -eq 0 ]
}

for arg in "$@"; do
  case $arg in
    -h | --help)
      usage
      exit 0
      ;;
    --list)
      list
      exit 0
      ;;
  esac
  if [ -z "${about[$arg]:-}" ]; then
    echo "check.sh: there is no stage \"$arg\"; scripts/check.sh --list shows them" >&2
    exit 2
  fi
  want "$arg"
done
[ $# -gt 0 ] || for s in "${stages[@]}"; do want "$s"; done

mkdir -p "$logs" || exit 1
for s in "${stages[@]}"; do
  [ -z "${wanted[$s]:-}" ] || run_stage "$s"
done
summary
