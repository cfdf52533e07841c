"""Every attack on what requests may open is refused, for the right reason, and honest requests pass."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from longvu_model.video import FrameSampling, decode_frames
from pipelines.serve.media import MediaGuard, MediaPolicy, MediaRefused, Probe, check_media
from tests.pipelines.serve import hostile
from tests.pipelines.serve.attacks import ATTACKS, Attack
from tests.pipelines.serve.hostile import SECRET, Hostile, World


@pytest.fixture(scope="module")
def enemy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    running = hostile.start(tmp_path_factory.mktemp("hostile"))
    yield running
    running.close()


def policy_of(name: str, world: World) -> MediaPolicy:
    limits = {
        "file_roots": (world.root,), "allow_ports": (80, 443, world.server, world.trap), "max_bytes": world.max_bytes,
        "max_frames": 1000, "read_timeout_s": 20.0, "fetch_timeout_s": 60.0, "decode_timeout_s": 120.0,
    }  # fmt: skip
    if name == "closed":
        return MediaPolicy(**limits)
    hurry = {"read_timeout_s": 0.4, "fetch_timeout_s": 0.8} if name == "hurried" else {}
    return MediaPolicy(**limits | hurry, allow_public=True, allow_networks=(f"{hostile.SERVER}/32",))


async def opened(guard: MediaGuard, url: str, kind: str = "video") -> tuple[Probe, bytes, str]:
    """What the endpoint does with a URL, up to the model."""
    async with guard.fetch(url, kind, param="messages.0") as file:
        probe = await asyncio.to_thread(check_media, file.path, guard.policy, kind)
        return probe, file.path.read_bytes(), file.digest


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name.replace(" ", "_"))
def test_attack(attack: Attack, enemy: Hostile, tmp_path: Path) -> None:
    trapped = len(enemy.trap.requests)
    guard = MediaGuard(policy_of(attack.policy, enemy.world), tmp_path, hostile.names())
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(MediaRefused) as refused:
        asyncio.run(opened(guard, attack.made(enemy.world), attack.kind))
    assert refused.value.status in attack.statuses, refused.value
    assert refused.value.reason and refused.value.fix
    assert SECRET not in str(refused.value) and len(str(refused.value)) < 700
    assert len(enemy.trap.requests) == trapped, "the service behind the wall was reached"
    assert not list(tmp_path.iterdir()), "a fetched file was left behind"
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 3  # the decoding child that waits for work


def test_there_are_many_attacks() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 60


@pytest.mark.parametrize("url", ["http://media.test:{server}/good.mp4", "http://127.0.0.3:{server}/untyped#t=1",
                                 "http://MEDIA.test.:{server}/to-good?x=1"])  # fmt: skip
def test_honest_address(url: str, enemy: Hostile, tmp_path: Path) -> None:
    guard = MediaGuard(policy_of("open", enemy.world), tmp_path, hostile.names())
    probe, data, digest = asyncio.run(opened(guard, url.format(server=enemy.world.server)))
    assert digest == hashlib.sha256((enemy.world.root / "good.mp4").read_bytes()).hexdigest()
    assert data == (enemy.world.root / "good.mp4").read_bytes()
    assert (probe.num_frames, probe.duration_s, probe.width, probe.height) == (8, 2.0, 96, 64)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["good.mp4", "inner-link.mp4", "folder/inside.mp4", "ünïcode #1.mp4"])
def test_honest_file(name: str, enemy: Hostile, tmp_path: Path) -> None:
    guard = MediaGuard(policy_of("closed", enemy.world), tmp_path)
    path = enemy.world.root / name
    _, data, digest = asyncio.run(
        opened(guard, f"file://{path.parent.as_uri()[7:]}/{Path(path).as_uri().rpartition('/')[2]}")
    )
    assert data == path.read_bytes() and digest == hashlib.sha256(data).hexdigest()


def test_root_that_is_a_link(enemy: Hostile, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(enemy.world.root)
    policy = MediaPolicy(file_roots=(tmp_path / "alias",))
    _, data, _ = asyncio.run(opened(MediaGuard(policy, tmp_path / "made"), f"file://{tmp_path}/alias/good.mp4"))
    assert data == (enemy.world.root / "good.mp4").read_bytes()


@pytest.mark.parametrize("pattern", ["media.test:{server}", "*.test:{server}"])
def test_host_patterns(pattern: str, enemy: Hostile, tmp_path: Path) -> None:
    pattern = pattern.format(server=enemy.world.server)
    policy = MediaPolicy(allow_hosts=(pattern,), allow_networks=("127.0.0.0/8",))
    guard = MediaGuard(policy, tmp_path, hostile.names())
    asyncio.run(opened(guard, f"http://media.test:{enemy.world.server}/good.mp4"))
    for other in (f"http://media.test:{enemy.world.trap}/secret", "http://media.test/good.mp4", "http://test/good.mp4",
                  f"http://xmedia.test.evil:{enemy.world.server}/good.mp4"):  # fmt: skip
        with pytest.raises(MediaRefused) as refused:
            asyncio.run(opened(guard, other))
        assert refused.value.status == 403


def test_requests_carry_nothing_of_ours(enemy: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no .netrc, no cookie, no key; the name in Host although the connection goes to an address."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, f"http://{hostile.TRAP}:{enemy.world.trap}")
    (tmp_path / ".netrc").write_text(f"default login x password {SECRET}\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    trapped = len(enemy.trap.requests)
    guard = MediaGuard(policy_of("open", enemy.world), tmp_path / "made", hostile.names())
    asyncio.run(opened(guard, f"http://media.test:{enemy.world.server}/good.mp4"))
    _, headers = enemy.server.requests[-1]
    assert headers["host"] == f"media.test:{enemy.world.server}"
    assert headers["accept-encoding"] == "identity"
    assert set(headers) <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
    assert len(enemy.trap.requests) == trapped


def test_a_name_is_resolved_once(enemy: Hostile, tmp_path: Path) -> None:
    """The connection goes where the first answer pointed, though the name points to the trap by then."""
    names = hostile.names()
    names.answers["rebind.test"] = [[hostile.SERVER], [hostile.TRAP]]
    guard = MediaGuard(policy_of("open", enemy.world), tmp_path, names)
    asyncio.run(opened(guard, f"http://rebind.test:{enemy.world.server}/good.mp4"))
    assert names.asked == ["rebind.test"]


def test_a_file_that_is_exchanged_after_it_was_judged(enemy: Hostile, tmp_path: Path) -> None:
    """What was opened stays what is used: the path leads elsewhere before the decoder opens it."""
    root = tmp_path / "media"
    root.mkdir()
    path = root / "video.mp4"
    path.write_bytes((enemy.world.root / "good.mp4").read_bytes())

    async def exchanged() -> tuple[bytes, int]:
        async with MediaGuard(MediaPolicy(file_roots=(root,)), tmp_path / "made").fetch(f"file://{path}") as file:
            path.unlink()
            path.symlink_to(enemy.world.outside / "secret.mp4")
            return file.path.read_bytes(), len(decode_frames(file.path, FrameSampling(fps=4)).frames)

    data, num_frames = asyncio.run(exchanged())
    assert data == (enemy.world.root / "good.mp4").read_bytes() and num_frames == 8
    with pytest.raises(MediaRefused):
        asyncio.run(exchanged())


def test_a_component_that_becomes_a_link(enemy: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between resolving a path and opening it, a folder on the way is exchanged for a link outside."""
    root = tmp_path / "media"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "secret.mp4").write_bytes(b"harmless")
    resolve = os.path.realpath

    def realpath_then_exchange(path: str | Path) -> str:
        real = resolve(path)
        if str(path).endswith("secret.mp4"):
            (root / "sub").rename(root / "moved")
            (root / "sub").symlink_to(enemy.world.outside)
        return real

    monkeypatch.setattr("pipelines.serve.guard_files.os.path.realpath", realpath_then_exchange)
    with pytest.raises(MediaRefused) as refused:
        asyncio.run(
            opened(MediaGuard(MediaPolicy(file_roots=(root,)), tmp_path / "made"), f"file://{root}/sub/secret.mp4")
        )
    assert refused.value.status == 403


def test_digests_are_remembered_while_a_file_stays(tmp_path: Path) -> None:
    root = tmp_path / "media"
    root.mkdir()
    path = root / "video.mp4"
    guard = MediaGuard(MediaPolicy(file_roots=(root,)), tmp_path / "made")

    async def digest() -> str:
        async with guard.fetch(f"file://{path}") as file:
            return file.digest

    path.write_bytes(b"first")
    assert asyncio.run(digest()) == asyncio.run(digest()) == hashlib.sha256(b"first").hexdigest()
    facts = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert asyncio.run(digest()) == hashlib.sha256(b"other").hexdigest()


def test_no_more_fetches_than_allowed(tmp_path: Path) -> None:
    active = most = 0

    async def resolve(host: str, port: int) -> list[str]:
        nonlocal active, most
        active += 1
        most = max(most, active)
        for _ in range(20):
            await asyncio.sleep(0)
        active -= 1
        return []

    async def several() -> None:
        guard = MediaGuard(MediaPolicy(allow_public=True, max_fetches=2), tmp_path, resolve)
        replies = await asyncio.gather(*(opened(guard, f"http://{n}.test/") for n in range(6)), return_exceptions=True)
        assert all(isinstance(refused, MediaRefused) for refused in replies)

    asyncio.run(several())
    assert most == 2


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    old, new, other = tmp_path / "fetched-old", tmp_path / "fetched-new", tmp_path / "kept"
    for path in (old, new, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    MediaGuard(MediaPolicy(), tmp_path)
    assert not old.exists() and new.exists() and other.exists()
