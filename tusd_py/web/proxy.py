"""What a request looked like before trusted proxies passed it on.

`Forwarded` (RFC 7239) and `X-Forwarded-*` can be written by anybody, so they count only if the connection comes from
a proxy that the operator named. Addresses are read from the nearest hop outwards, as far as the hops are trusted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tusd_py.headers import Headers

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)*/?", re.ASCII)
_FORWARDING = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Via", "X-Real-IP")


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as its client made it."""

    scheme: str
    host: str
    prefix: str
    remote: str | None
    is_local: bool
    """Whether the client is on this machine and nothing stands between."""


class Proxies:
    """The proxies that are trusted."""

    def __init__(self, trusted: Sequence[str]) -> None:
        """Take addresses, networks, and `unix` for whoever connects to the Unix socket."""
        self._unix = "unix" in trusted
        self._networks = [ipaddress.ip_network(text, strict=False) for text in trusted if text != "unix"]

    def seen(self, headers: Headers, peer: str | None, scheme: str, host: str) -> Seen:
        """Return how the client made the request that arrived from `peer`, None being a Unix socket."""
        if not self._trusts(peer):
            forwarded = any(name in headers for name in _FORWARDING)
            return Seen(scheme, _clean(host), "", peer, not forwarded and (peer is None or _is_loopback(peer)))
        hops = _forwarded(headers) if "Forwarded" in headers else _x_forwarded(headers)
        remote, outermost = peer, hops[-1] if hops else {}
        for hop in reversed(hops):
            outermost = hop
            remote = _address(hop.get("for")) or remote
            if not self._trusts(remote):
                break
        prefix = (headers.get("X-Forwarded-Prefix") or "").strip()
        scheme = outermost.get("proto", scheme).lower()
        return Seen(
            scheme if scheme in ("http", "https") else "http",
            _with_port(_clean(outermost.get("host", host)), headers.get("X-Forwarded-Port"), scheme),
            prefix.rstrip("/") if _PREFIX.fullmatch(prefix) else "",
            remote,
            False,
        )

    def _trusts(self, peer: str | None) -> bool:
        if peer is None:
            return self._unix
        try:
            address = ipaddress.ip_address(peer.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


def _forwarded(headers: Headers) -> list[Mapping[str, str]]:
    """Return the hops of Forwarded, the client's first (RFC 7239 section 4)."""
    hops: list[Mapping[str, str]] = []
    for element in ",".join(headers.getall("Forwarded")).split(","):
        pairs = [pair.strip().partition("=") for pair in element.split(";") if pair.strip()]
        hops.append({name.lower(): value.strip('"') for name, _, value in pairs})
    return hops


def _x_forwarded(headers: Headers) -> list[Mapping[str, str]]:
    """Return the hops of X-Forwarded-For with the protocol and host that belong to each."""

    def values(name: str) -> list[str]:
        return [part.strip() for part in ",".join(headers.getall(name, [])).split(",") if part.strip()]

    hops: list[dict[str, str]] = [{"for": address} for address in values("X-Forwarded-For")] or [{}]
    for key, name in (("proto", "X-Forwarded-Proto"), ("host", "X-Forwarded-Host")):
        found = values(name)
        # A proxy that sets the header gives one value for all hops; proxies that append give one each.
        for number, hop in enumerate(reversed(hops)):
            if found:
                hop[key] = found[-1 - min(number, len(found) - 1)]
    return list(hops)


def _address(node: str | None) -> str | None:
    """Return the address in a node of Forwarded or X-Forwarded-For, without port and brackets."""
    if not node:
        return None
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


def _is_loopback(peer: str) -> bool:
    try:
        return ipaddress.ip_address(peer.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _clean(host: str) -> str:
    return host if _HOST.fullmatch(host) else "localhost"


def _with_port(host: str, port: str | None, scheme: str) -> str:
    has_port = host.rpartition("]")[2].count(":") == 1
    if (
        has_port
        or not port
        or not port.isascii()
        or not port.isdigit()
        or port == {"http": "80", "https": "443"}.get(scheme)
    ):
        return host
    return f"{host}:{port[:5]}"
