"""The port, the daemon that may be behind it, and whether Home Assistant can find it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from wyoming.info import TtsProgram
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncZeroconf

from ..config.schema import Wyoming
from ..errors import QwenTtsError
from ..network import addresses_to_advertise, interface_addresses
from ..wyoming import client
from ..wyoming.zeroconf import SERVICE_TYPE
from .findings import Finding, error, ok, warning

ANSWER_WITHIN_S = 3.0
FOUND_WITHIN_S = 3.0


def ask_daemon(uri: str) -> TtsProgram | None:
    """Return the info of a running daemon, or None if none answers."""
    try:
        return asyncio.run(_described(uri))
    except (QwenTtsError, OSError, TimeoutError):
        return None


async def _described(uri: str) -> TtsProgram | None:
    async with asyncio.timeout(ANSWER_WITHIN_S):
        return next(iter(await client.programs(client.ClientOptions(uri, None, None, 0.0))), None)


def check_port(config: Wyoming, running: TtsProgram | None) -> list[Finding]:
    """Answered by a daemon, or free for one."""
    if running:
        text = f"{config.uri} is answered by {running.name} {running.version or ''}, {len(running.voices)} voices"
        if running.name == config.name:
            return [ok("port", text)]
        return [error("port", f"{text}: another program", "end it, or choose another port (wyoming.uri)")]
    parts = urlsplit(config.uri)
    if parts.scheme == "tcp":
        return [_tcp(config.uri, parts.hostname or "", parts.port or 0)]
    return [_unix(config.uri, Path(unquote(parts.path)))] if parts.scheme == "unix" else []


def _tcp(uri: str, host: str, port: int) -> Finding:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as fault:
        remedy = f"`ss -ltnp 'sport = :{port}'` shows who; or choose another port (wyoming.uri)"
        reasons = {
            errno.EADDRINUSE: ("is in use by something that does not answer as a daemon", remedy),
            errno.EACCES: ("may not be used by this user", "choose a port above 1023 (wyoming.uri)"),
            errno.EADDRNOTAVAIL: ("is not an address of this machine", "`ip address` lists them (wyoming.uri)"),
        }
        why, what = reasons.get(fault.errno or 0, (fault.strerror or str(fault), "correct wyoming.uri"))
        return error("port", f"{uri} {why}", what)
    return ok("port", f"{uri} is free, no daemon runs there")


def _unix(uri: str, path: Path) -> Finding:
    if not path.parent.is_dir():
        return error("port", f"{uri}: the directory {path.parent} does not exist", "create it, or correct wyoming.uri")
    return ok("port", f"{uri} is free, no daemon runs there")


def check_access(config: Wyoming) -> list[Finding]:
    """Whether strangers may connect."""
    host = urlsplit(config.uri).hostname
    if host is None or host == "localhost" or _is_loopback(host):
        return []
    public = [str(network) for network in config.allow_networks if network.is_global or network.prefixlen == 0]
    if public:
        remedy = "Wyoming does not have passwords: remove them, unless they are your own IPv6 prefix"
        return [warning("access", f"wyoming.allow_networks lets in public addresses: {', '.join(public)}", remedy)]
    return [ok("access", f"{len(config.allow_networks)} private networks may connect")]


def check_discovery(config: Wyoming, running: TtsProgram | None) -> list[Finding]:
    """Whether Home Assistant can find the daemon by itself."""
    parts = urlsplit(config.uri)
    if parts.scheme != "tcp" or not config.zeroconf:
        return [ok("discovery", "off (wyoming.zeroconf, wyoming.uri); add the daemon by hand in Home Assistant")]
    addresses = addresses_to_advertise(parts.hostname or "", interface_addresses(), None)
    if not addresses:
        remedy = "tcp://0.0.0.0:10200 is reached from other machines (wyoming.uri); fine if Home Assistant runs here"
        return [warning("discovery", f"{config.uri} is reached from this machine only", remedy)]
    if running is None:
        return [ok("discovery", f"will be advertised at {', '.join(addresses)}")]
    return [_found(config.name, asyncio.run(_advertised(config.name)))]


def _found(name: str, addresses: Sequence[str] | None) -> Finding:
    if addresses:
        return ok("discovery", f"{name} is advertised at {', '.join(addresses)}")
    remedy = "open UDP port 5353 for multicast; by hand it works in any case (integration Wyoming Protocol)"
    return warning("discovery", f"{name} is not found on the network", remedy)


async def _advertised(name: str) -> list[str] | None:
    try:
        async with AsyncZeroconf() as zeroconf:
            full_name = f"{name}.{SERVICE_TYPE}"
            found = await zeroconf.async_get_service_info(SERVICE_TYPE, full_name, int(FOUND_WITHIN_S * 1000))
    except (OSError, ZeroconfError):
        return None
    return found.parsed_addresses() if found else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
