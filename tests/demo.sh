#!/bin/sh
# Start a daemon on a socket of its own, let it speak TEXT into a WAV file, and stop it again.
# usage: demo.sh QWENTTS_DAEMON OUTPUT TEXT
set -eu
program=$1 output=$2 text=$3
mkdir -p "$(dirname "$output")"
folder=$(mktemp -d)
"$program" run --config /dev/null --uri "unix://$folder/wyoming.socket" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true; wait "$daemon" || true; rm -rf "$folder"' EXIT
"$program" say "$text" --config /dev/null --uri "unix://$folder/wyoming.socket" --wait 20 --output "$output"
