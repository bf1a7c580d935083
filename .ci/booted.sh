#!/bin/sh
# What boot.sh runs where systemd runs: the service as a home has it, from its installation to its end.
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
check "it is installed and started" $program install-service
check "it counts as started once it answers" speaks "Good evening."
check "its status is told" within 5 shows StatusText idle
check "it is a user of its own, without a capability" is_closed_in
check "its secrets are handed over" test -s /run/credentials/qwentts.service/mqtt_password
check "its folders are its own" test "$(stat -L -c %U /var/lib/qwentts)" != root
check "a second installation starts nothing again" starts_nothing_again

mkdir -p /etc/qwentts && echo 'text: {max_length: 12}' >/etc/qwentts/config.yaml
check "a reload is done" systemctl reload qwentts
check "and taken over" within 5 logs "read again: text.max_length"
check "a text that is now too long is refused" refuses "More than twelve."
echo 'text: {max_lngth: 12}' >/etc/qwentts/config.yaml
check "a broken file is reloaded" systemctl reload qwentts
check "told as an error" within 5 logs "stays as it was: .*did you mean max_length" -p err
check "and changes nothing" speaks "It speaks."
check "with it no start succeeds" fails systemctl restart qwentts
check "nor is it tried again" shows NRestarts 0
rm /etc/qwentts/config.yaml

mkdir -p /run/systemd/system/qwentts.service.d
printf '[Service]\nWatchdogSec=3\n' >/run/systemd/system/qwentts.service.d/watchdog.conf
check "a watchdog of three seconds" sh -c 'systemctl daemon-reload && systemctl restart qwentts && sleep 5'
check "is fed" shows NRestarts 0
check "until the daemon is frozen" kill -STOP "$(value MainPID)"
check "and then it is started again" within 30 was_started_again
rm -r /run/systemd/system/qwentts.service.d

check "every addition is installed" $program install-service --with strict-memory --with own-network --with local-sound
check "and it speaks with them" speaks "Within these walls."
check "its exposure is at most 2.0" systemd-analyze security --threshold=20 qwentts
check "the port can be systemd's" sh -c 'systemctl stop qwentts && systemctl enable --now qwentts.socket'
check "and the first client starts it" speaks "Wake up."
check "it begins a restart" systemctl restart --no-block qwentts
check "who connects meanwhile waits" speaks "I can wait."

echo 'text: {max_lngth: 12}' >/etc/qwentts/config.yaml
connects='import socket, time; waiting = socket.create_connection(("127.0.0.1", 10200)); time.sleep(60)'
check "it stops" systemctl stop qwentts
python3 -c "$connects" 2>/dev/null &
check "who waits for a wrong configuration starts it not for ever" within 60 systemctl is-failed -q qwentts.socket
rm /etc/qwentts/config.yaml
check "with a right one the port is opened again" sh -c 'sleep 30 && systemctl restart qwentts.socket'
check "and it speaks" speaks "Here I am again."

check "it is uninstalled" $program uninstall-service
check "and gone" fails systemctl cat qwentts
check "but for what is the owner's" test -d /var/lib/qwentts -a -d /etc/qwentts
