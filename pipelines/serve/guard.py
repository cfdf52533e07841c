"""What requests may make the server open: the policy, and how a refusal is said.

Everything is denied unless named here: no host is asked, no file is opened under the default policy.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from pydantic import field_validator

from longvu_model.video.supervised import MEMORY_BYTES, MIN_MEMORY_BYTES
from pipelines.config import Config, setting
from pipelines.errors import UserError

_HOST_PATTERN = re.compile(r"(\*\.)?(?=[^.:])[a-z0-9_.-]*[a-z0-9](:[0-9]{1,5})?|\[[0-9a-f:.]+\](:[0-9]{1,5})?")


class MediaRefused(UserError):
    """A medium that is not opened, or not used. Its text never holds credentials, queries or data of a URL.

    Attributes:
        reason: what is wrong, and what is allowed.
        fix: what the client can do.
        status: the HTTP status that fits: 400 malformed, 403 not allowed, 404 no such file, 413 beyond a cap, 415 not
            media, 422 damaged, 424 the other server failed.
        param: the field of the request, where the caller has named it.
    """

    def __init__(self, reason: str, fix: str, status: int, param: str | None = None) -> None:
        super().__init__(f"{reason}; {fix}")
        self.reason, self.fix, self.status, self.param = reason, fix, status, param

    def __reduce__(self) -> tuple[type[MediaRefused], tuple[object, ...]]:
        return MediaRefused, (self.reason, self.fix, self.status, self.param)


class MediaPolicy(Config):
    """What media requests may name, and how much of it."""

    allow_hosts: tuple[str, ...] = setting(
        (),
        about="hosts that media are fetched from: 'example.org', '*.example.org' (below it), 'example.org:8443'",
        in_digest=False,
    )
    allow_public: bool = setting(
        False, about="fetch from any host all of whose addresses are on the public internet", in_digest=False
    )
    allow_networks: tuple[str, ...] = setting(
        (),
        about="networks beside the public internet that allowed hosts may be in, such as '10.3.0.0/16'",
        in_digest=False,
    )
    allow_ports: tuple[int, ...] = setting(
        (80, 443), about="ports that media are fetched from, beside those of patterns with a port", in_digest=False
    )
    file_roots: tuple[Path, ...] = setting(
        (), about="folders under which file:// URLs may name files; no link leads out of them", in_digest=False
    )
    max_bytes: int = setting(1 << 30, about="largest file in bytes", ge=1, in_digest=False)
    max_duration_s: float = setting(4 * 3600.0, about="longest video in seconds", gt=0, in_digest=False)
    max_pixels: int = setting(8192 * 4320, about="largest frame in pixels", ge=1, in_digest=False)
    max_frames: int = setting(1_000_000, about="most frames that a file may hold", ge=1, in_digest=False)
    max_sampled_frames: int = setting(
        16_384,
        about="most frames that one video may be sampled at, whatever rate a request asks for",
        ge=1,
        in_digest=False,
    )
    max_redirects: int = setting(3, about="redirects that are followed, each one checked anew", ge=0, in_digest=False)
    max_fetches: int = setting(16, about="media fetched at a time; others wait", ge=1, in_digest=False)
    fetch_timeout_s: float = setting(
        120.0, about="seconds that fetching one medium may take, with names and redirects", gt=0, in_digest=False
    )
    read_timeout_s: float = setting(
        10.0,
        about="seconds without a byte, or without a connection, after which a server is given up",
        gt=0,
        in_digest=False,
    )
    decode_timeout_s: float = setting(
        300.0,
        about="seconds that decoding one medium may take; first when it is checked, then for its frames",
        gt=0,
        in_digest=False,
    )
    decode_memory_bytes: int = setting(
        MEMORY_BYTES, about="address space in bytes of a decoding process", ge=MIN_MEMORY_BYTES, in_digest=False
    )

    @field_validator("allow_hosts")
    @classmethod
    def _patterns(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        lowered = tuple(pattern.lower() for pattern in patterns)
        for pattern in lowered:
            if not _HOST_PATTERN.fullmatch(pattern):
                raise ValueError(
                    f"{pattern!r} is no host: write 'example.org', '*.example.org' or 'example.org:8443'; "
                    "allow_public=true allows every public host"
                )
        return lowered

    @field_validator("allow_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.ip_network(network)) for network in networks)

    @field_validator("allow_ports")
    @classmethod
    def _ports(cls, ports: tuple[int, ...]) -> tuple[int, ...]:
        for port in ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"{port} is no port: write numbers from 1 to 65535")
        return ports

    @field_validator("file_roots")
    @classmethod
    def _roots(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_absolute() or root == Path(root.anchor):
                raise ValueError(f"{root}: write the absolute path of a folder below /")
            if not root.is_dir():
                raise ValueError(f"{root}: there is no such folder; create it first")
        return roots
