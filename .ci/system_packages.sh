#!/bin/sh
# Install missing system packages that the tests need, with apt and root only.
# usage: system_packages.sh PROGRAM[:PACKAGE]…   (PACKAGE: default PROGRAM)
set -eu
missing=
for wanted in "$@"; do
    program=${wanted%%:*}
    command -v "$program" >/dev/null 2>&1 || [ -x "/usr/sbin/$program" ] || missing="$missing ${wanted##*:}"
done
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing$missing with apt ..."
    if { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing; } >/dev/null; then
        exit 0
    fi
fi
echo "not installed:$missing; tests that need these are skipped (Debian: sudo apt install$missing)" >&2
