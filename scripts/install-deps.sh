#!/usr/bin/env bash
# Installs the programs that a step of the Makefile needs and that this machine lacks.
# Silent, and without a network, when nothing is missing. Usage: install-deps.sh STEP...
set -euo pipefail

# Debian keeps daemons where an ordinary user does not look.
PATH="$PATH:/usr/sbin:/sbin"

# The programs of one step, each as COMMAND:DEBIAN-PACKAGE; modules of Python as python3.MODULE.
programs_of() {
  case "$1" in
    build) echo cmake:cmake cc:gcc c++:g++ pkg-config:pkg-config curl:curl ;;
    test) echo redis-server:redis-server ;;
    check) echo shellcheck:shellcheck python3:python3 ;;
    load) echo wrk:wrk ;;
    faults) echo openssl:openssl python3:python3 ;;
    chaos) echo nginx:nginx-light haproxy:haproxy python3:python3 unshare:util-linux ;;
    bench)
      echo wrk:wrk h2load:nghttp2-client openssl:openssl nginx:nginx-light haproxy:haproxy
      echo python3:python3 taskset:util-linux setpriv:util-linux redis-server:redis-server
      echo python3.cryptography:python3-cryptography
      ;;
    *)
      echo "install-deps: unknown step '$1', expected build, test, check, load, faults, chaos or bench" >&2
      return 2
      ;;
  esac
}

is_installed() {
  case "$1" in
    python3.*) python3 -c "import ${1#python3.}" 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

packages=()
for step in "$@"; do
  programs="$(programs_of "$step")"
  for program in $programs; do
    is_installed "${program%%:*}" || packages+=("${program##*:}")
  done
done
if [ "${#packages[@]}" -eq 0 ]; then
  exit 0
fi

if ! command -v apt-get >/dev/null; then
  echo "install-deps: please install ${packages[*]}; this machine has no apt-get to do it with" >&2
  exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null || ! sudo -v; then
    echo "install-deps: please install ${packages[*]} as root; sudo is not available here" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "install-deps: installing ${packages[*]}" >&2
# A service that a package brings must not start: ports would be taken, and nothing here uses it.
blocker=""
if [ ! -e /usr/sbin/policy-rc.d ]; then
  blocker=/usr/sbin/policy-rc.d
  trap '"${as_root[@]}" rm -f "$blocker"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$blocker" >/dev/null
  "${as_root[@]}" chmod 755 "$blocker"
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends "${packages[@]}" \
  </dev/null >/dev/null
