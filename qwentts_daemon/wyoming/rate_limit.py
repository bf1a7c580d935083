"""Who may connect, and how much one address may ask for: Wyoming itself knows neither passwords nor limits."""

from __future__ import annotations

import ipaddress
import logging
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..config.live import LiveConfig
from ..config.schema import Network, Wyoming
from ..errors import Code, SpeechError

REMEMBERED = 1024
IPV6_HOST_PREFIX = 64
"""One machine has all the addresses of such a network."""
DESCRIPTORS = 256
"""Besides those of the connections."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ClientState:
    """What one address has open, and how many requests it has left."""

    open: int
    left: float
    asked_s: float


class ClientLimiter:
    """The rules for addresses, and a bounded memory of those that come. Loopback has no limits."""

    def __init__(self, live: LiveConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._guests: OrderedDict[str, _ClientState] = OrderedDict()

    @property
    def _config(self) -> Wyoming:
        return self._live.current.wyoming

    def enter(self, address: str | None) -> None:
        """Count a connection, which `leave` takes back. Raises SpeechError; None is a client of this machine."""
        if address is None:
            return
        if not is_allowed(address, self._config.allow_networks):
            raise SpeechError(Code.ADDRESS_NOT_ALLOWED, f"{address} is in none of wyoming.allow_networks")
        if guest := self._guest(address):
            limit = self._config.max_connections_per_address
            if guest.open >= limit:
                raise SpeechError(
                    Code.TOO_MANY_CONNECTIONS,
                    f"{limit} connections of {address} are open (wyoming.max_connections_per_address)",
                )
            self._ask(address, guest)
            guest.open += 1

    def leave(self, address: str | None) -> None:
        """A connection that was let in has ended."""
        if address is not None and (guest := self._guest(address)):
            guest.open -= 1

    def ask(self, address: str | None) -> None:
        """Count a request. Raises SpeechError when there were too many."""
        if address is not None and (guest := self._guest(address)):
            self._ask(address, guest)

    def _ask(self, address: str, guest: _ClientState) -> None:
        limit, now_s = self._config.max_requests_per_minute, self._clock()
        guest.left = min(limit, guest.left + (now_s - guest.asked_s) * limit / 60)
        guest.asked_s = now_s
        if guest.left < 1:
            raise SpeechError(
                Code.TOO_MANY_REQUESTS,
                f"more than {limit} requests a minute from {address} (wyoming.max_requests_per_minute)",
            )
        guest.left -= 1

    def _guest(self, address: str) -> _ClientState | None:
        """The entry of an address, the latest last; None for loopback. Who was not there for longest is forgotten."""
        host = _host(address)
        if host is None:
            return None
        guest = self._guests.setdefault(
            host, _ClientState(0, float(self._config.max_requests_per_minute), self._clock())
        )
        self._guests.move_to_end(host)
        if len(self._guests) > REMEMBERED:
            absent = next((key for key, other in self._guests.items() if not other.open and other is not guest), None)
            self._guests.pop(absent or "", None)
        return guest


def allow_descriptors(connections: int) -> None:
    """Let this process have so many connections, as far as its user may."""
    wanted = connections + DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("only %d descriptors may be open, and wyoming.max_connections needs %d", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address of a peer lies in one of the networks; an IPv4 address may be written as an IPv6 one."""
    ip = _plain(address)
    return any(ip.version == network.version and ip in network for network in networks)


def _host(address: str) -> str | None:
    ip = _plain(address)
    if ip.is_loopback:
        return None
    return str(ip if ip.version == 4 else ipaddress.ip_network((int(ip), IPV6_HOST_PREFIX), strict=False))


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address)
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
