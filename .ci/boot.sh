#!/bin/sh
# Boot systemd in a container over this machine's file system (writes stay in memory), install the service from a wheel
# and test it with .ci/booted.sh. Needs root, systemd-nspawn and python3-venv.
# usage: boot.sh PYTHON   (with hatchling, to build the wheel)
set -eu
python=$1
folder=$(mktemp -d)
container=
clean() {
    [ -z "$container" ] || { kill "$container" 2>/dev/null && wait "$container" || true; }
    umount "$folder/memory/root" 2>/dev/null || true
    umount "$folder/memory" 2>/dev/null || true
    rm -rf --one-file-system "$folder"
}
trap clean EXIT

"$python" -m hatchling build -t wheel -d "$folder" >/dev/null 2>&1
mkdir "$folder/memory"
mount -t tmpfs tmpfs "$folder/memory"
mkdir "$folder/memory/upper" "$folder/memory/work" "$folder/memory/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/memory/upper,workdir=$folder/memory/work" "$folder/memory/root"
root=$folder/memory/root
rm -rf "$root"/etc/systemd/system/*.wants/* "$root/opt/qwentts" "$root/etc/qwentts" "$root/var/lib/qwentts"
cp "$folder"/*.whl .ci/booted.sh "$root/opt"

nspawn="systemd-nspawn -q --register=no --keep-unit -D $root"
echo "installing the wheel into /opt/qwentts of the container ..."
install='python3 -m venv /opt/qwentts && /opt/qwentts/bin/pip install -q "$(echo /opt/*.whl)[espeak]"'
$nspawn sh -c "$install" >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }

echo "booting ..."
$nspawn --private-network -b systemd.unit=multi-user.target >"$folder/log" 2>&1 </dev/null &
container=$!
is_up() {
    leader=$(pgrep -P "$container" systemd) || return 1
    nsenter -t "$leader" -a systemctl is-system-running --wait 2>/dev/null | grep -qE "running|degraded"
}
tries=300
until is_up; do
    tries=$((tries - 1))
    { [ $tries -gt 0 ] && kill -0 "$container" 2>/dev/null; } || { cat "$folder/log" >&2; exit 1; }
    sleep 0.2
done
nsenter -t "$leader" -a sh /opt/booted.sh
