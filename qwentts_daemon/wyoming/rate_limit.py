"""Which addresses may connect, and how much each may ask for: Wyoming itself has neither passwords nor limits."""

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
"""Needed besides those of the connections."""
EVENTS_PER_S = 500.0
BYTES_PER_S = 1024.0 * 1024.0
BURST_S = 10.0
"""An address may send what it is allowed in this time at once. A streamed text has about 50 events a second."""

log = logging.getLogger(__name__)


class TokenBucket:
    """A budget that refills over time up to a limit (https://en.wikipedia.org/wiki/Token_bucket)."""

    def __init__(self, limit: float, now_s: float) -> None:
        self.left = limit
        self._filled_s = now_s

    def refill(self, limit: float, per_second: float, now_s: float) -> float:
        """Add what has become available and return what is left."""
        self.left = min(limit, self.left + (now_s - self._filled_s) * per_second)
        self._filled_s = now_s
        return self.left

    def debt_s(self, amount: float, per_second: float, now_s: float) -> float:
        """Take `amount` and return the seconds until the budget is balanced again."""
        self.refill(per_second * BURST_S, per_second, now_s)
        self.left -= amount
        return max(0.0, -self.left / per_second)


@dataclass(slots=True)
class _ClientState:
    """The open connections of one address and its budgets."""

    open: int
    requests: TokenBucket
    events: TokenBucket
    bytes: TokenBucket


class ClientLimiter:
    """The rules for addresses, and a bounded memory of those that connect. Loopback is not limited."""

    def __init__(self, live: LiveConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._clients: OrderedDict[str, _ClientState] = OrderedDict()

    @property
    def _config(self) -> Wyoming:
        return self._live.current.wyoming

    def acquire(self, address: str | None) -> None:
        """Count a connection until `release`. None is a client of this machine. Raises SpeechError."""
        if address is None:
            return
        if not is_allowed(address, self._config.allow_networks):
            raise SpeechError(Code.ADDRESS_NOT_ALLOWED, f"{address} is not in wyoming.allow_networks")
        if client := self._client(address):
            limit = self._config.max_connections_per_address
            if client.open >= limit:
                raise SpeechError(
                    Code.TOO_MANY_CONNECTIONS,
                    f"{limit} connections of {address} are open (wyoming.max_connections_per_address)",
                )
            self._take_request(address, client)
            client.open += 1

    def release(self, address: str | None) -> None:
        """Record the end of a connection that was accepted."""
        if address is not None and (client := self._client(address)):
            client.open -= 1

    def count_request(self, address: str | None) -> None:
        """Count a request. Raises SpeechError when there were too many."""
        if address is not None and (client := self._client(address)):
            self._take_request(address, client)

    def count_event(self, address: str | None, size: int) -> float:
        """Count an event of any type, `size` in bytes. Return the seconds to wait before reading its body."""
        if address is None or not (client := self._client(address)):
            return 0.0
        now_s = self._clock()
        return max(client.events.debt_s(1, EVENTS_PER_S, now_s), client.bytes.debt_s(size, BYTES_PER_S, now_s))

    def _take_request(self, address: str, client: _ClientState) -> None:
        limit = self._config.max_requests_per_minute
        if client.requests.refill(limit, limit / 60, self._clock()) < 1:
            raise SpeechError(
                Code.TOO_MANY_REQUESTS,
                f"more than {limit} requests a minute from {address} (wyoming.max_requests_per_minute)",
            )
        client.requests.left -= 1

    def _client(self, address: str) -> _ClientState | None:
        """Return the state of an address; None for loopback. Forgets the address that was absent for longest."""
        host = host_of(address)
        if host is None:
            return None
        client = self._clients.get(host) or self._new_client()
        self._clients[host] = client
        self._clients.move_to_end(host)
        if len(self._clients) > REMEMBERED:
            absent = next((key for key, other in self._clients.items() if not other.open and other is not client), None)
            self._clients.pop(absent or "", None)
        return client

    def _new_client(self) -> _ClientState:
        now_s = self._clock()
        requests = TokenBucket(self._config.max_requests_per_minute, now_s)
        return _ClientState(
            0, requests, TokenBucket(EVENTS_PER_S * BURST_S, now_s), TokenBucket(BYTES_PER_S * BURST_S, now_s)
        )


def allow_descriptors(connections: int) -> None:
    """Raise this process's limit of descriptors for the given number of connections, as far as its user may."""
    wanted = connections + DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        log.warning("only %d descriptors may be open, and wyoming.max_connections needs %d", hard, wanted)
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def is_allowed(address: str, networks: Sequence[Network]) -> bool:
    """Whether the address of a peer is in one of the networks; an IPv4 address may be written as an IPv6 one."""
    ip = _plain(address)
    return any(ip.version == network.version and ip in network for network in networks)


def host_of(address: str) -> str | None:
    """Return the machine behind an address: an IPv4 address or an IPv6 network; None for loopback."""
    ip = _plain(address)
    if ip.is_loopback:
        return None
    return str(ip if ip.version == 4 else ipaddress.ip_network((int(ip), IPV6_HOST_PREFIX), strict=False))


def _plain(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    ip = ipaddress.ip_address(address)
    return ip.ipv4_mapped or ip if isinstance(ip, ipaddress.IPv6Address) else ip
