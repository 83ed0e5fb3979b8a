#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that Tenon needs. Does nothing if all are there.
#
#   scripts/deps.sh           what building and running takes
#   scripts/deps.sh --dev     also what scripts/check.sh takes: clang, formatters, linters, Python
#   scripts/deps.sh --list    prints the names and installs nothing (with --dev: all of them)
#
# Works as root or through sudo. Made for Debian 12; other systems with apt and packages of these names do as well.
set -euo pipefail

build=(gcc g++ libc6-dev cmake ninja-build pkg-config python3)
libraries=(libconfig-dev libjansson-dev libpcre2-dev libutf8proc-dev libxxhash-dev libsodium-dev check
  libopenmpi-dev openmpi-bin)
dev=(git clang clang-format-14 clang-tidy libclang-rt-14-dev shellcheck python3-venv python3-dev)

want=("${build[@]}" "${libraries[@]}")
list=no
for arg in "$@"; do
  case $arg in
    --dev) want+=("${dev[@]}") ;;
    --list) list=yes ;;
    -h | --help)
      sed -n '3,10s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "deps.sh: unknown argument $arg; see scripts/deps.sh --help" >&2
      exit 2
      ;;
  esac
done
if [ "$list" = yes ]; then
  printf '%s\n' "${want[@]}"
  exit 0
fi

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "deps.sh: this is no Debian; install what these packages hold: ${want[*]}" >&2
  exit 1
fi

missing=()
for package in "${want[@]}"; do
  status=$(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "deps: all ${#want[@]} packages are there"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "deps.sh: not root, and there is no sudo. As root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

install() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
}

echo "deps: installing ${missing[*]}"
# A machine whose package lists are missing or old fails at first; then they are fetched.
if ! install >/dev/null 2>&1; then
  "${as_root[@]}" apt-get update -q >/dev/null
  if ! install; then
    echo "deps.sh: apt-get could not install all of: ${missing[*]}" >&2
    exit 1
  fi
fi
echo "deps: done"
