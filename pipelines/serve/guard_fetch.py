"""Fetching a file over HTTP from a server that may be hostile.

The connection goes to an address that was judged beforehand, under the host's name (Host header, TLS certificate), and
the socket itself is checked once more before it connects. No proxy, cookie, credential or setting of the environment
takes part. What arrives is bounded while it arrives, whatever the server says about its length.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipelines.serve.guard import MediaPolicy, MediaRefused
from pipelines.serve.guard_addresses import Resolve, WebAddress, permitted_addresses

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_BUFFER_BYTES = 1 << 20
_HEADERS = {"Accept": "video/*, image/*", "Accept-Encoding": "identity", "User-Agent": "longvu-ray"}


async def download(address: WebAddress, policy: MediaPolicy, resolve: Resolve, take: Callable[[bytes], object]) -> None:
    """Fetch a file and hand its bytes to ``take`` in order, at most ``policy.max_bytes``.

    Raises:
        MediaRefused: the address, or one that it redirects to, is not allowed; the file is too large, or arrives too
            slowly; the server fails. ``take`` may have got a part by then.
    """
    start = address
    for _ in range(policy.max_redirects + 1):
        addresses = await permitted_addresses(address, policy, resolve)
        try:
            location = await _get(address, addresses, policy, take)
        except TimeoutError:
            raise _failed(address, f"sent nothing for {policy.read_timeout_s:g} s") from None
        except aiohttp.ClientError as error:
            raise _failed(address, f"could not be read ({type(error).__name__})") from None
        if location is None:
            return
        address = address.redirected(location)
    raise MediaRefused(
        f"{start} redirects more than {policy.max_redirects} times", "give the address of the file itself", 403
    )


async def _get(
    address: WebAddress, addresses: Sequence[str], policy: MediaPolicy, take: Callable[[bytes], object]
) -> str | None:
    """One request; the new location if it is answered by a redirect."""
    url = URL.build(
        scheme=address.scheme,
        host=address.host,
        port=address.port,
        path=address.path,
        query_string=address.query,
        encoded=True,
    )
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=policy.read_timeout_s, sock_read=policy.read_timeout_s)
    connector = aiohttp.TCPConnector(
        resolver=_Pinned(addresses), socket_factory=_socket_to(addresses), use_dns_cache=False, force_close=True
    )
    async with (
        aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=_BUFFER_BYTES,
        ) as session,
        session.get(url, headers=_HEADERS, allow_redirects=False) as reply,
    ):
        if reply.status in _REDIRECTS:
            if "Location" not in reply.headers:
                raise _failed(address, f"answered {reply.status} without saying where to go")
            return reply.headers["Location"]
        await _read(reply, address, policy, take)
        return None


async def _read(
    reply: aiohttp.ClientResponse, address: WebAddress, policy: MediaPolicy, take: Callable[[bytes], object]
) -> None:
    if reply.status != 200:
        raise _failed(address, f"answered {reply.status}")
    encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise _failed(address, f"sent its bytes compressed ({encoding[:20]!r}), which was not asked for")
    if (reply.content_length or 0) > policy.max_bytes:
        raise too_large(str(address), policy)
    num_bytes = 0
    async for chunk in reply.content.iter_any():
        num_bytes += len(chunk)
        if num_bytes > policy.max_bytes:
            raise too_large(str(address), policy)
        await asyncio.to_thread(take, chunk)


def too_large(name: str, policy: MediaPolicy) -> MediaRefused:
    return MediaRefused(
        f"{name} has more than {policy.max_bytes} bytes, the most that this server takes",
        "send a shorter or smaller video",
        413,
    )


def _failed(address: WebAddress, what: str) -> MediaRefused:
    return MediaRefused(
        f"{address} {what}", "check that the address gives the file itself, or upload to /v1/videos", 424
    )


class _Pinned(AbstractResolver):
    """Gives the addresses that were judged, whatever name is asked for."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


def _socket_to(addresses: Sequence[str]) -> Callable[[aiohttp.AddrInfoType], socket.socket]:
    """Makes sockets, each just before it connects, and only to the judged addresses."""

    def make(info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol, _, where = info
        assert where[0] in addresses, f"a connection to {where[0]} was about to be made, judged were {addresses}"
        return socket.socket(family, kind, protocol)

    return make
