#!/bin/sh
# Tests the installed service under systemd, from installation to removal; boot.sh runs it in a container.
set -eu
program=/opt/qwentts/bin/qwentts-daemon
check() { # WHAT COMMAND…
    what=$1
    shift
    if "$@" >/tmp/output 2>&1; then echo "ok   $what"; else
        echo "FAIL $what: $*" && cat /tmp/output && journalctl -u qwentts -n 30 --no-pager && exit 1
    fi
}
value() { systemctl show qwentts -p "$1" --value; }
shows() { value "$1" | grep -qx -- "$2"; }
logs() { # TEXT [OPTION OF JOURNALCTL…]
    text=$1
    shift
    journalctl -u qwentts -o cat --no-pager "$@" | grep -q "$text"
}
speaks() { $program say "$1" --config /dev/null -o /tmp/speech.wav; }
refuses() { ! speaks "$1"; }
fails() { ! "$@"; }
is_closed_in() {
    state=/proc/$(value MainPID)/status
    grep -q "^CapEff:.0*$" "$state" && ! grep -q "^Uid:.0" "$state"
}
starts_nothing_again() {
    before=$(value MainPID)
    $program install-service && shows MainPID "$before"
}
was_started_again() { shows NRestarts 1 && systemctl is-active -q qwentts; }
within() { # SECONDS COMMAND…
    left=$(($1 * 10))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.1
    done
}

mkdir -p /etc/credstore && echo hush >/etc/credstore/qwentts.mqtt_password
check "install-service installs and starts the service" $program install-service
check "the service answers once it is started" speaks "Good evening."
check "systemctl shows its status" within 5 shows StatusText idle
check "it runs as a separate user without capabilities" is_closed_in
check "its credentials are passed" test -s /run/credentials/qwentts.service/mqtt_password
check "its state directory does not belong to root" test "$(stat -L -c %U /var/lib/qwentts)" != root
check "a second installation does not restart it" starts_nothing_again

mkdir -p /etc/qwentts && echo 'text: {max_length: 12}' >/etc/qwentts/config.yaml
check "reload succeeds" systemctl reload qwentts
check "reload applies the new value" within 5 logs "reloaded: text.max_length"
check "a text beyond the new limit is rejected" refuses "More than twelve."
echo 'text: {max_lngth: 12}' >/etc/qwentts/config.yaml
check "reload with an invalid file returns" systemctl reload qwentts
check "the invalid file is logged as an error" within 5 logs "not reloaded, .*did you mean max_length" -p err
check "the previous configuration stays in force" speaks "It speaks."
check "a restart with the invalid file fails" fails systemctl restart qwentts
check "the failed start is not retried" shows NRestarts 0
rm /etc/qwentts/config.yaml

mkdir -p /run/systemd/system/qwentts.service.d
printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/qwentts.service.d/watchdog.conf
check "the service runs with a watchdog of 3 s" sh -c 'systemctl daemon-reload && systemctl restart qwentts && sleep 5'
check "the watchdog does not expire" shows NRestarts 0
check "the daemon is frozen" kill -STOP "$(value MainPID)"
check "the watchdog restarts it" within 30 was_started_again
rm -r /run/systemd/system/qwentts.service.d

check "every drop-in is installed" $program install-service --with strict-memory --with own-network --with local-sound
check "it speaks with all drop-ins" speaks "Within these walls."
check "its exposure level is at most 2.0" systemd-analyze security --threshold=20 qwentts
check "socket activation is enabled" sh -c 'systemctl stop qwentts && systemctl enable --now qwentts.socket'
check "the first client starts it" speaks "Wake up."
check "a restart begins" systemctl restart --no-block qwentts
check "a client waits during the restart" speaks "I can wait."

echo 'text: {max_lngth: 12}' >/etc/qwentts/config.yaml
connects='import socket, time; waiting = socket.create_connection(("127.0.0.1", 10200)); time.sleep(60)'
check "the service stops" systemctl stop qwentts
python3 -c "$connects" 2>/dev/null &
check "a waiting client does not restart an invalid configuration forever" within 60 systemctl is-failed -q qwentts.socket
rm /etc/qwentts/config.yaml
check "the socket can be restarted with a valid configuration" sh -c 'sleep 30 && systemctl restart qwentts.socket'
check "it speaks again" speaks "Here I am again."

check "uninstall-service succeeds" $program uninstall-service
check "the units are removed" fails systemctl cat qwentts
check "configuration and state are kept" test -d /var/lib/qwentts -a -d /etc/qwentts
