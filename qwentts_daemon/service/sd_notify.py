"""The protocols between systemd and a service: sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).

Each function removes its variables from the environment, so that workers do not inherit them.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import stat
import time
from collections.abc import MutableMapping

from ..errors import StartError

FIRST_DESCRIPTOR = 3

log = logging.getLogger(__name__)


class Notifier:
    """Sends the state of the service to systemd, if it runs under systemd. The variables: sd_notify(3)."""

    def __init__(self, address: str | None) -> None:
        """`address` is a path, or the name of an abstract socket, which begins with `@`."""
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    def ready(self) -> None:
        """Report that the service is ready, or that a reload has finished."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report the start of a reload; `ready` must follow."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, within_s: float) -> None:
        """Report that the service is stopping, and extend the stop timeout to `within_s`."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round(within_s * 1e6)}")

    def status(self, text: str) -> None:
        """Set the status line that `systemctl status` shows."""
        self._send(f"STATUS={text.splitlines()[0]}")

    def alive(self) -> None:
        """Send the watchdog's keep-alive ping."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            self._socket.sendto(message.encode(), self._address)
        except OSError as error:
            log.warning("could not send %s to systemd: %s", message.partition("=")[0], error)


def take_notifier(environment: MutableMapping[str, str]) -> Notifier:
    """Return the notifier of the service manager that started this process."""
    return Notifier(environment.pop("NOTIFY_SOCKET", None))


def take_watchdog_s(environment: MutableMapping[str, str]) -> float:
    """Return the watchdog interval in seconds; infinite without a watchdog for this process."""
    interval_us, process = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
    if not interval_us.isdecimal() or process not in ("", str(os.getpid())):
        return math.inf
    return int(interval_us) / 1e6 or math.inf


def take_sockets(environment: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """Return the listening sockets that systemd passed to this process, by FileDescriptorName=. Raises StartError."""
    process, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "").split(":")
    if process != str(os.getpid()) or not count.isdecimal():
        return {}
    sockets: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        name = names[number] if len(names) == int(count) and names[number] else "unknown"
        sockets.setdefault(name, []).append(_listening_socket(FIRST_DESCRIPTOR + number, name))
    return sockets


def _listening_socket(descriptor: int, name: str) -> socket.socket:
    os.set_inheritable(descriptor, False)
    if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        found = socket.socket(fileno=descriptor)
        if found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return found
    raise StartError(
        f"the descriptor {name!r} from systemd is not a listening stream socket (use ListenStream= and Accept=no)"
    )
