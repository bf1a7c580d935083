#!/bin/sh
# Start a daemon on a temporary socket, synthesize TEXT into a WAV file, and stop the daemon.
# MODEL is a directory or a hub id, downloaded if needed; without it, the fallback voice speaks.
# usage: demo.sh QWENTTS_DAEMON OUTPUT TEXT [MODEL]
set -eu
program=$1 output=$2 text=$3 model=${4:-}
[ ! -d "$model" ] || model=$(cd "$model" && pwd)
mkdir -p "$(dirname "$output")"
folder=$(mktemp -d)
set -- --config /dev/null --uri "unix://$folder/wyoming.socket"
[ -z "$model" ] || set -- "$@" --backend qwen3 --set "engine.model=$model" \
    --set engine.fallback=false --set queue.max_wait=7200 --set engine.job_timeout=3600
"$program" run "$@" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null || true; wait "$daemon" || true; rm -rf "$folder"' EXIT
until [ -S "$folder/wyoming.socket" ]; do # a daemon that exits before it listens has logged the reason
    kill -0 "$daemon" 2>/dev/null || { wait "$daemon" || exit; exit 1; }
    sleep 0.1
done
say() { "$program" say "$1" --config /dev/null --uri "unix://$folder/wyoming.socket" --wait 1 --output "$2"; }
say "Ready." "$folder/ready.wav" >/dev/null # waits for the engine worker, so that the time printed below excludes its start
say "$text" "$output"
