"""Which web addresses may be asked: one strict grammar, host patterns, and public addresses only.

A URL is taken apart once, by a grammar that leaves no room for a second reading (no user info, no backslash, nothing
beyond ASCII, no spelling of an IPv4 address but four decimal numbers), and the request is built from those parts. A
name is resolved once, all its addresses are judged, and the connection goes to one of those (:mod:`.guard_fetch`).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

from pipelines.serve.guard import MediaPolicy, MediaRefused

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host name and a port to the addresses of that name, as text."""

MAX_URL_CHARS = 8192
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<query>\?[^#]*)?(#.*)?"
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# Beyond what the ipaddress module knows as not global (it differs between Python versions): protocol assignments with
# Oracle's metadata service, the 6to4 relay, Azure's host agent, addresses that carry IPv4 ones, and documentation.
_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "168.63.129.16/32",
        "2001::/23",
        "2002::/16",
        "2001:db8::/32",
        "3fff::/20",
    )
)


@dataclass(frozen=True)
class WebAddress:
    """An http(s) URL in its parts. ``host`` is lower case without trailing dot, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    query: str

    def __str__(self) -> str:
        """Without the query: signed URLs carry their secret there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _DEFAULT_PORTS[self.scheme] else f":{self.port}"
        return _cut(f"{self.scheme}://{host}{port}{self.path}")

    def redirected(self, location: str) -> WebAddress:
        """Where a redirect leads.

        Raises:
            MediaRefused: to another scheme, from https to http, or to something that is no plain URL.
        """
        base = f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}{self.path or '/'}"
        try:
            target = parse_web_address(urljoin(base, location.strip(" \t")))
        except (MediaRefused, ValueError):
            raise MediaRefused(
                f"{self} redirects to what is no plain http(s) URL", "give the address of the file itself", 403
            ) from None
        if self.scheme == "https" and target.scheme == "http":
            raise MediaRefused(f"{self} redirects from https to http", "give an https address that stays there", 403)
        return target


def parse_web_address(url: str) -> WebAddress:
    """An http(s) URL in its parts.

    Raises:
        MediaRefused: not of the grammar; the message says which part.
    """
    if len(url) > MAX_URL_CHARS:
        raise MediaRefused(
            f"a URL of {len(url)} characters, allowed are {MAX_URL_CHARS}", "shorten it, or upload to /v1/videos", 400
        )
    if not all("!" <= char <= "~" for char in url) or "\\" in url:
        raise MediaRefused(
            f"{shown_url(url)!r} has spaces, backslashes, control or non-ASCII characters",
            "percent-encode its path and write its host in ASCII (xn--...)",
            400,
        )
    parts = _URL.fullmatch(url)
    scheme = parts["scheme"].lower() if parts else ""
    if parts is None or scheme not in _DEFAULT_PORTS:
        raise MediaRefused(
            f"{shown_url(url)!r} is no http(s)://, data: or file:// URL",
            "give one of those, or an id of /v1/videos",
            400,
        )
    if "@" in parts["authority"]:
        raise MediaRefused("a URL with a user name in it", "credentials are never forwarded; use a signed URL", 400)
    authority = _AUTHORITY.fullmatch(parts["authority"])
    port = int(authority["port"] or _DEFAULT_PORTS[scheme]) if authority else 0
    if authority is None or not 1 <= port <= 65535:
        raise MediaRefused(f"{shown_url(url)!r} has no plain host[:port]", "write https://example.org/video.mp4", 400)
    return WebAddress(scheme, _host(authority["host"].lower()), port, parts["path"] or "/", (parts["query"] or "?")[1:])


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(ipaddress.IPv6Address(text[1:-1]))
        except ValueError:
            raise MediaRefused(f"{text!r} is no IPv6 address", "write it as [2001:4860::1]", 400) from None
    host = text.removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise MediaRefused(f"{text[:80]!r} is no host name", "write a name such as example.org", 400)
    # A host whose last label is a number is an IPv4 address to every resolver, in octal, hex or short form as well.
    if _NUMBER.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise MediaRefused(
                f"{text[:80]!r} is another spelling of an IPv4 address",
                "write four decimal numbers without zeros in front",
                400,
            ) from None
    return host


def check_host(address: WebAddress, policy: MediaPolicy) -> None:
    """Raise ``MediaRefused`` unless the policy lets this host and port be asked."""
    matching = [pattern for pattern in policy.allow_hosts if _matches(address, pattern)]
    if not matching and not policy.allow_public:
        raise MediaRefused(
            f"the host {address.host[:80]} is not one that this server fetches from",
            "upload the file to /v1/videos, or ask the operator to add the host to allow_hosts",
            403,
        )
    if address.port not in policy.allow_ports and not any(_pattern_parts(pattern)[1] for pattern in matching):
        raise MediaRefused(
            f"port {address.port} of {address.host[:80]}: allowed are {', '.join(map(str, policy.allow_ports))}",
            "use one of those, or ask the operator to allow host:port",
            403,
        )


def _matches(address: WebAddress, pattern: str) -> bool:
    host, port = _pattern_parts(pattern)
    if port and port != address.port:
        return False
    return address.host.endswith(host[1:]) if host.startswith("*.") else address.host == host


def _pattern_parts(pattern: str) -> tuple[str, int | None]:
    host, colon, port = pattern.rpartition(":")
    if not colon or pattern.endswith("]"):
        host, port = pattern, ""
    return host.removeprefix("[").removesuffix("]"), int(port) if port else None


async def permitted_addresses(address: WebAddress, policy: MediaPolicy, resolve: Resolve) -> tuple[str, ...]:
    """The addresses of a host that may be connected to; the name is resolved here and nowhere else.

    Raises:
        MediaRefused: the host is not allowed, cannot be resolved, or has an address that is not allowed. One such
            address condemns the name: which one a later connection would take is the name server's choice.
    """
    check_host(address, policy)
    literal = _ip_address(address.host)
    try:
        found = [str(literal)] if literal else list(await resolve(address.host, address.port))
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise MediaRefused(f"the host {address.host[:80]} has no address", "check its name", 424)
    for text in found:
        ip = _ip_address(text)
        if ip is None or not (is_public(ip) or _in_networks(ip, policy)):
            # Which address it was stays unsaid: the answer would map the network behind the server.
            raise MediaRefused(
                f"the host {address.host[:80]} has an address that is not on the public internet",
                "upload the file to /v1/videos, or ask the operator to add its network to allow_networks",
                403,
            )
    return tuple(found)


def _ip_address(text: str) -> IpAddress | None:
    """None for a name, and for an address with a zone."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    return None if isinstance(ip, ipaddress.IPv6Address) and ip.scope_id else ip


def _in_networks(ip: IpAddress, policy: MediaPolicy) -> bool:
    return any(ip in ipaddress.ip_network(network) for network in policy.allow_networks)


def is_public(ip: IpAddress) -> bool:
    """Whether an address belongs to some host on the public internet, and to nothing nearer.

    IPv6 addresses that carry an IPv4 one are refused (mapped, 6to4, Teredo), but for those of NAT64, by which networks
    without IPv4 reach it: there the address inside decides.
    """
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if ip not in _GLOBAL_UNICAST:
            return False
    if ip.is_multicast or ip.is_reserved or not ip.is_global:
        return False
    return not any(ip in network for network in _NEVER)


def shown_url(url: str) -> str:
    """A URL for logs and messages: without user info, query, fragment and data."""
    if url[:5].lower() == "data:":
        return f"data: URL of {len(url)} characters"
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return _cut(re.split(r"[?#]", url)[0])
    authority, slash, path = re.split(r"[?#]", rest)[0].partition("/")
    return _cut(f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}")


def _cut(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."
