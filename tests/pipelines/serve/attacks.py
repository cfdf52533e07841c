"""Ways to make a server open what it should not, or work without end: one list, for the guard and the endpoint."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.pipelines.serve import hostile
from tests.pipelines.serve.hostile import SECRET, World

Url = str | Callable[[World], str]


@dataclass(frozen=True)
class Attack:
    """A URL in a request.

    Attributes:
        url: as text with fields of :class:`World` in braces, or made from the world.
        statuses: HTTP statuses that a refusal may have.
        kind: the part of the message it stands in.
        policy: ``open`` allows every public host and the server's own network, ``closed`` no host at all; ``hurried``
            is ``open`` with short deadlines.
    """

    name: str
    url: Url
    statuses: tuple[int, ...]
    kind: Literal["video", "image"] = "video"
    policy: Literal["open", "closed", "hurried"] = "open"

    def made(self, world: World) -> str:
        if callable(self.url):
            return self.url(world)
        text = self.url
        for name in ("server", "trap", "root", "outside"):
            text = text.replace(f"{{{name}}}", str(getattr(world, name)))
        return text


def _data(make: Callable[[], bytes], kind: str = "video/mp4") -> Callable[[World], str]:
    return lambda world: f"data:{kind};base64,{base64.b64encode(make()).decode()}"


def _trap(world: World) -> str:
    return f"http://{hostile.TRAP}:{world.trap}/secret"


ADDRESSES = [
    Attack("loopback", "http://127.0.0.1:{trap}/secret", (403,)),
    Attack("loopback as name", "http://localhost:{trap}/secret", (403,)),
    Attack("loopback as name with a dot", "http://LocalHost.:{trap}/secret", (403,)),
    Attack("loopback with a dot", "http://127.0.0.1.:{trap}/secret", (403,)),
    Attack("short IPv4", "http://127.1:{trap}/secret", (400,)),
    Attack("decimal IPv4", "http://2130706433:{trap}/secret", (400,)),
    Attack("octal IPv4", "http://017700000001:{trap}/secret", (400,)),
    Attack("octal parts", "http://0177.0.0.01:{trap}/secret", (400,)),
    Attack("hex IPv4", "http://0x7f000001:{trap}/secret", (400,)),
    Attack("hex parts", "http://0x7f.0.0.0x1:{trap}/secret", (400,)),
    Attack("overflowing IPv4", "http://4294967297:{trap}/secret", (400,)),
    Attack("zero", "http://0:{trap}/secret", (400,)),
    Attack("unspecified", "http://0.0.0.0:{trap}/secret", (403,)),
    Attack("IPv6 loopback", "http://[::1]:{trap}/secret", (403,)),
    Attack("IPv6 unspecified", "http://[::]:{trap}/secret", (403,)),
    Attack("IPv4-mapped", "http://[::ffff:127.0.0.1]:{trap}/secret", (403,)),
    Attack("IPv4-mapped in hex", "http://[::ffff:7f00:1]:{trap}/secret", (403,)),
    Attack("IPv4-mapped in full", "http://[0:0:0:0:0:FFFF:127.0.0.1]:{trap}/secret", (403,)),
    Attack("IPv4-compatible", "http://[::127.0.0.1]:{trap}/secret", (403,)),
    Attack("6to4 of loopback", "http://[2002:7f00:1::]:{trap}/secret", (403,)),
    Attack("NAT64 of loopback", "http://[64:ff9b::7f00:1]:{trap}/secret", (403,)),
    Attack("NAT64 of metadata", "http://[64:ff9b::a9fe:a9fe]/latest/meta-data/", (403,)),
    Attack("Teredo of loopback", "http://[2001:0:7f00:1:0:0:80ff:fffe]/secret", (403,)),
    Attack("IPv6 link-local", "http://[fe80::1]/", (403,)),
    Attack("IPv6 zone", "http://[fe80::1%25lo]/", (400,)),
    Attack("IPv6 zone, raw", "http://[fe80::1%lo]/", (400,)),
    Attack("IPv6 private", "http://[fd00:ec2::254]/latest/meta-data/", (403,)),
    Attack("IPv6 multicast", "http://[ff02::1]/", (403,)),
    Attack("IPv6 documentation", "http://[2001:db8::1]/", (403,)),
    Attack("metadata service", "http://169.254.169.254/latest/meta-data/", (403,)),
    Attack("metadata service by name", "http://metadata.google.internal/computeMetadata/v1/", (403,)),
    Attack("Alibaba's metadata", "http://100.100.100.200/latest/meta-data/", (403,)),
    Attack("Azure's host agent", "http://168.63.129.16/machine/", (403,)),
    Attack("Oracle's metadata", "http://192.0.0.192/latest/", (403,)),
    Attack("private 10/8", "http://10.0.0.1/", (403,)),
    Attack("private 172.16/12", "http://172.16.0.1/", (403,)),
    Attack("private 192.168/16", "http://192.168.1.1/", (403,)),
    Attack("carrier NAT", "http://100.64.0.1/", (403,)),
    Attack("multicast", "http://224.0.0.1/", (403,)),
    Attack("broadcast", "http://255.255.255.255/", (403,)),
    Attack("reserved", "http://240.0.0.1/", (403,)),
    Attack("benchmarking network", "http://198.18.0.1/", (403,)),
]

SPELLINGS = [
    Attack("ideographic dots", "http://127。0。0。1:{trap}/secret", (400,)),
    Attack("full-width digits", "http://１２７.0.0.1:{trap}/secret", (400,)),
    Attack("circled letters", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{trap}/secret", (400,)),
    Attack("full-width dot in a name", "http://media．test:{server}/good.mp4", (400,)),
    Attack("user info before loopback", "http://media.test@127.0.0.1:{trap}/secret", (400,)),
    Attack("credentials", f"http://user:{SECRET}@media.test:{{server}}/good.mp4", (400,)),
    Attack("backslash", "http://media.test:{server}\\@127.0.0.1:{trap}/secret", (400,)),
    Attack("fragment before @", "http://127.0.0.1:{trap}#@media.test/", (403,)),
    Attack("tab in the host", "http://127.0\t.0.1:{trap}/secret", (400,)),
    Attack("line break in the path", "http://media.test:{server}/good.mp4\r\nX-Injected: 1", (400,)),
    Attack("NUL in the host", "http://media.test\x00.evil.test/", (400,)),
    Attack("percent-encoded host", "http://%31%32%37.0.0.1:{trap}/secret", (400,)),
    Attack("encoded slash in the host", "http://127.0.0.1%2f@media.test/", (400,)),
    Attack("two ports", "http://media.test:{server}:{trap}/good.mp4", (400,)),
    Attack("signed port", "http://media.test:+80/good.mp4", (400,)),
    Attack("port 0", "http://media.test:0/good.mp4", (400,)),
    Attack("port beyond 65535", "http://media.test:70000/good.mp4", (400,)),
    Attack("SSH port", "http://media.test:22/good.mp4", (403,)),
    Attack("no host", "http:///secret", (400,)),
    Attack("one slash", "http:/127.0.0.1:{trap}/secret", (400,)),
    Attack("no scheme", "//127.0.0.1:{trap}/secret", (400,)),
    Attack("empty label", "http://media..test:{server}/good.mp4", (400,)),
    Attack("two dots at the end", "http://media.test..:{server}/good.mp4", (400,)),
    Attack("unclosed bracket", "http://[::1:{trap}/secret", (400,)),
    Attack("brackets around a name", "http://[media.test]:{server}/good.mp4", (400,)),
    Attack("very long", lambda world: f"http://media.test:{world.server}/good.mp4?{'a' * 20_000}", (400,)),
    Attack("empty", "", (400,)),
    Attack("blank", " ", (400,)),
    Attack("lone surrogate", "http://media.test/\ud800", (400,)),
]

SCHEMES = [
    Attack("ftp", "ftp://127.0.0.1:{trap}/secret", (400,)),
    Attack("gopher", "gopher://127.0.0.1:{trap}/_GET", (400,)),
    Attack("bucket", "s3://bucket/video.mp4", (400,)),
    Attack("FFmpeg's concat", "concat:/etc/passwd|/etc/hosts", (400,)),
    Attack("FFmpeg's subfile", "subfile,,start,0,end,100,,:/etc/passwd", (400,)),
    Attack("FFmpeg's tcp", "tcp://127.0.0.1:{trap}", (400,)),
    Attack("FFmpeg's pipe", "pipe:0", (400,)),
    Attack("FFmpeg's crypto", "crypto+file:///etc/passwd", (400,)),
    Attack("unix socket", "unix:/var/run/docker.sock", (400,)),
    Attack("plain path", "/etc/passwd", (400,)),
    Attack("plain path in the root", "{root}/good.mp4", (400,)),
    Attack("script", "javascript:alert(1)", (400,)),
]

NAMES = [
    Attack("name of a private address", "http://private.test:{trap}/secret", (403,)),
    Attack("name of loopback", "http://loopback.test:{trap}/secret", (403,)),
    Attack("name with one private address of two", "http://mixed.test:{trap}/secret", (403,)),
    Attack("name of a mapped address", "http://mapped.test:{trap}/secret", (403,)),
    Attack("name of an address with a zone", "http://zone.test:{trap}/secret", (403,)),
    Attack("name of no address", "http://garbage.test:{trap}/secret", (403, 424)),
    Attack("unknown name", "http://unknown.test/good.mp4", (424,)),
    # The second answer is the trap's: who resolves again to connect gets there.
    Attack("rebinding", "http://rebind.test:{trap}/secret", (403, 424)),
    Attack("rebinding by a redirect", "http://media.test:{server}/to?http://rebind.test:TRAP/secret", (403, 424)),
    Attack("host not allowed", "http://media.test:{server}/good.mp4", (403,), policy="closed"),
    Attack("public address not allowed", "http://8.8.8.8/good.mp4", (403,), policy="closed"),
    Attack("loopback under the closed policy", "http://127.0.0.1:{trap}/secret", (403,), policy="closed"),
]

REDIRECTS = [
    Attack("redirect to loopback", "http://media.test:{server}/to-trap", (403,)),
    Attack("redirect to metadata", "http://media.test:{server}/to?http://169.254.169.254/latest/", (403,)),
    Attack("redirect without scheme", "http://media.test:{server}/to?//127.0.0.1:TRAP/secret", (403,)),
    Attack("redirect to decimal IPv4", "http://media.test:{server}/to?http://2130706433:TRAP/secret", (403,)),
    Attack("redirect to IPv4-mapped", "http://media.test:{server}/to?http://[::ffff:127.0.0.1]:TRAP/secret", (403,)),
    Attack("redirect to a private name", "http://media.test:{server}/to?http://private.test/secret", (403,)),
    Attack("redirect to a file", "http://media.test:{server}/to?file:///etc/passwd", (403,)),
    Attack("redirect to data", "http://media.test:{server}/to?data:video/mp4;base64,AAAA", (403,)),
    Attack("redirect to gopher", "http://media.test:{server}/to?gopher://127.0.0.1:TRAP/_GET", (403,)),
    Attack("redirect to user info", "http://media.test:{server}/to?http://media.test@127.0.0.1:TRAP/", (403,)),
    Attack("redirect with backslash", "http://media.test:{server}/raw-location", (403,)),
    Attack("redirect to another port", "http://media.test:{server}/to?http://media.test:22/", (403,)),
    Attack("two redirects to loopback", "http://media.test:{server}/twice-to-trap", (403,)),
    Attack("redirect loop", "http://media.test:{server}/loop", (403,)),
    Attack("redirect chain", "http://media.test:{server}/chain-9", (403,)),
    Attack("redirect to nowhere", "http://media.test:{server}/nowhere", (424,)),
]

RESPONSES = [
    Attack("endless body in chunks", "http://media.test:{server}/endless", (413,)),
    Attack("endless body", "http://media.test:{server}/unlimited", (413,)),
    Attack("a terabyte announced", "http://media.test:{server}/large", (413,)),
    Attack("more announced than sent", "http://media.test:{server}/short", (424,)),
    Attack("less announced than sent", "http://media.test:{server}/cut", (415, 422, 424)),
    Attack("negative length", "http://media.test:{server}/negative", (424,)),
    Attack("two lengths", "http://media.test:{server}/two-lengths", (424,)),
    Attack("gzip bomb", "http://media.test:{server}/gzip", (424,)),
    Attack("brotli", "http://media.test:{server}/brotli", (424,)),
    Attack("silence", "http://media.test:{server}/stall", (424,), policy="hurried"),
    Attack("silence in the body", "http://media.test:{server}/stalled-body", (424,), policy="hurried"),
    Attack("a byte at a time", "http://media.test:{server}/drip", (424,), policy="hurried"),
    Attack("endless 100 Continue", "http://media.test:{server}/continue", (424,), policy="hurried"),
    Attack("endless headers", "http://media.test:{server}/headers", (424,)),
    Attack("endless header", "http://media.test:{server}/long-header", (424,)),
    Attack("no HTTP", "http://media.test:{server}/no-http", (424,)),
    Attack("hang-up", "http://media.test:{server}/hang-up", (424,)),
    Attack("partial content", "http://media.test:{server}/partial", (424,)),
    Attack("page that needs a login", "http://media.test:{server}/denied", (424,)),
    Attack("error page", "http://media.test:{server}/broken", (424,)),
    Attack("empty file", "http://media.test:{server}/empty", (415,)),
    Attack("page called a video", "http://media.test:{server}/html", (415,)),
    Attack("playlist of the trap", "http://media.test:{server}/playlist.m3u8", (415,)),
]

FILES = [
    Attack("system file", "file:///etc/passwd", (403,)),
    Attack("environment", "file:///proc/self/environ", (403,)),
    Attack("device", "file:///dev/zero", (403,)),
    Attack("dots", "file://{root}/../media-private/secret.mp4", (400,)),
    Attack("encoded dots", "file://{root}/%2e%2e/media-private/secret.mp4", (400,)),
    Attack("encoded slash and dots", "file://{root}/..%2fmedia-private%2fsecret.mp4", (400,)),
    Attack("dots encoded twice", "file://{root}/%252e%252e/media-private/secret.mp4", (404,)),
    Attack("overlong dots", "file://{root}/%c0%ae%c0%ae/media-private/secret.mp4", (400,)),
    Attack("full-width dots", "file://{root}/%ef%bc%8e%ef%bc%8e/media-private/secret.mp4", (404,)),
    Attack("backslash dots", "file://{root}/..\\media-private\\secret.mp4", (400,)),
    Attack("folder with the root's name in front", "file://{outside}/secret.mp4", (403,)),
    Attack("link to a file outside", "file://{root}/link.mp4", (403,)),
    Attack("link to a folder outside", "file://{root}/linked/secret.mp4", (403,)),
    Attack("link upwards", "file://{root}/up/etc/passwd", (403, 404)),
    Attack("link to itself", "file://{root}/loop", (403, 404)),
    Attack("NUL", "file://{root}/good.mp4%00.png", (400,)),
    Attack("line break", "file://{root}/good%0a.mp4", (400,)),
    Attack("host in a file URL", "file://media.test{root}/good.mp4", (400,)),
    Attack("loopback in a file URL", "file://127.0.0.1{root}/good.mp4", (400,)),
    Attack("four slashes", "file:////etc/passwd", (400,)),
    Attack("one slash after file", "file:/etc/passwd", (400,)),
    Attack("relative file", "file://etc/passwd", (400,)),
    Attack("query", "file://{root}/good.mp4?x=1", (400,)),
    Attack("pipe", "file://{root}/pipe.mp4", (403,)),
    Attack("folder", "file://{root}/folder", (403,)),
    Attack("the root", "file://{root}", (403,)),
    Attack("missing file", "file://{root}/missing.mp4", (404,)),
    Attack("name of 5000 letters", lambda world: f"file://{world.root}/{'a' * 5000}", (403, 404)),
    Attack("file beyond the cap", "file://{root}/large.mp4", (413,)),
    Attack("text called a video", "file://{root}/text.mp4", (415,)),
    Attack("video as image", "file://{root}/good.mp4", (415,), kind="image"),
]

CONTENTS = [
    Attack("data beyond the cap", lambda world: f"data:video/mp4;base64,{'AAAA' * (world.max_bytes // 3 + 9)}", (413,)),
    Attack("data without base64", "data:video/mp4,hello", (400,)),
    Attack("data of bad base64", "data:video/mp4;base64,!!!!", (400,)),
    Attack("data with line breaks", "data:video/mp4;base64,AAAA\nAAAA", (400,)),
    Attack("empty data", "data:video/mp4;base64,", (415,)),
    Attack("zip bomb", _data(hostile.zip_bomb), (415,)),
    Attack("zip bomb as image", _data(hostile.zip_bomb, "image/png"), (415,), kind="image"),
    Attack("GIF of 65535x65535", _data(lambda: hostile.gif(65535, 65535)), (413, 415, 422)),
    Attack("GIF of 20000 frames", _data(lambda: hostile.gif(64, 64, 20_000)), (413,)),
    Attack("PNG of 60000x60000", _data(lambda: hostile.png(60000, 60000), "image/png"), (413,), kind="image"),
    Attack("PNG of 9000x9000", _data(lambda: hostile.png(9000, 9000), "image/png"), (413,), kind="image"),
    Attack("PNG with 64 MB of text", _data(hostile.text_bomb, "image/png"), (413, 422), kind="image"),
    Attack("BMP of a million lines", _data(lambda: hostile.bmp(30000, 30000), "image/bmp"), (413, 422), kind="image"),
    Attack("video of ten days", _data(lambda: hostile.long_video(864_000.0)), (413,)),
    Attack("compressed index of 4 GB", _data(hostile.compressed_header_bomb), (413, 415, 422)),
    Attack("HLS playlist of a file", _data(lambda: hostile.playlist("file:///etc/passwd")), (415,)),
    Attack("HLS playlist of the trap", lambda w: _data(lambda: hostile.playlist(_trap(w)))(w), (415,)),
    Attack("DASH manifest of the trap", lambda w: _data(lambda: hostile.dash(_trap(w)))(w), (415,)),
    Attack("concat script", _data(lambda: b"ffconcat version 1.0\nfile '/etc/passwd'\n"), (415,)),
    Attack("session description", _data(lambda: b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 9 RTP/AVP 96\n"), (415,)),
    Attack("movie whose samples lie elsewhere", lambda w: _data(lambda: _reference(w))(w), (415, 422)),
    Attack("SVG as image", _data(lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>'), (415,), kind="image"),
    Attack("PostScript as image", _data(lambda: b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n"), (415,), kind="image"),
    Attack("text as image", _data(lambda: SECRET.encode()), (415,), kind="image"),
    Attack("cut PNG", _data(lambda: hostile.picture("PNG")[:50]), (422,), kind="image"),
]


def _reference(world: World) -> bytes:
    return hostile.reference_movie(f"file://{world.outside}/secret.mp4")


ATTACKS = [*ADDRESSES, *SPELLINGS, *SCHEMES, *NAMES, *REDIRECTS, *RESPONSES, *FILES, *CONTENTS]
