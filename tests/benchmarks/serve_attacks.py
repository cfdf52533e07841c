"""Every attack that we know, on a running endpoint: python -m tests.benchmarks.serve_attacks

The endpoint is `longvu serve` in processes of its own, with the chat page. It may fetch from every public host and from
one network of this machine, where a hostile server is; next to that a trap counts who reaches it. Names are resolved
by a name server of the attacker's. Ends with status 1 if an attack was not refused.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from longvu_model.presets import build_preset
from tests.pipelines.serve import hostile
from tests.pipelines.serve.attacks import ATTACKS
from tests.pipelines.serve.endpoint import live_endpoint, tiny_model
from tests.pipelines.serve.hostile import Hostile
from tests.pipelines.serve.live_attacks import (
    check_media_attack,
    check_page_opens_nothing,
    check_request_attack,
    check_slow_loris,
    own_names,
)
from tests.pipelines.serve.request_attacks import BODIES, TRICKS, Target, key_attacks

FLOOR = 60
HALF_OPEN = 200


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        enemy = hostile.start(folder / "hostile")
        try:
            return run(folder, enemy)
        finally:
            enemy.close()


def run(folder: Path, enemy: Hostile) -> int:
    world = enemy.world
    media = {
        "file_roots": [str(world.root)],
        "allow_public": True,
        "allow_networks": [f"{hostile.SERVER}/32"],
        "allow_ports": [80, 443, world.server, world.trap],
        "max_bytes": world.max_bytes,
        "max_frames": 1000,
        "read_timeout_s": 4.0,
        "fetch_timeout_s": 10.0,
    }
    with live_endpoint(
        folder / "endpoint",
        own_names(folder / "names"),
        models=[tiny_model(build_preset("tiny", folder / "tiny"))],
        media=media,
        uploads={"max_bytes": 8 << 20, "quota_bytes": 24 << 20},
        endpoint={"num_cpus": 0.1, "max_body_bytes": 4 << 20, "ui": True, "idle_timeout_s": 3.0},
    ) as live:
        target = Target(int(urlsplit(live.url).port or 0), live.key)
        took_s: dict[str, float] = {}
        failed = []
        for name, attack in attacks(target, enemy):
            started_s = time.monotonic()
            try:
                attack()
            except (AssertionError, OSError, LookupError, ValueError) as error:
                failed.append(name)
                print(f"NOT REFUSED  {name}: {error}")
            took_s[name] = time.monotonic() - started_s
        honest_s = check_slow_loris(target, HALF_OPEN)
    slowest = max(took_s, key=lambda name: took_s[name])
    print(
        f"attacks refused: {len(took_s) - len(failed)} of {len(took_s)} on a live endpoint, floor {FLOOR}; "
        f"the service behind the wall was reached {len(enemy.trap.requests)} times; "
        f"slowest {took_s[slowest]:.1f} s ({slowest})"
    )
    print(f"slow loris: with {HALF_OPEN} half-sent requests an honest one takes {1e3 * honest_s:.0f} ms")
    return 1 if failed or len(took_s) < FLOOR else 0


def attacks(target: Target, enemy: Hostile) -> Iterator[tuple[str, Callable[[], None]]]:
    """Names and what is to be done. Attacks on an endpoint that allows no host run in the tests."""
    for media in ATTACKS:
        if media.policy != "closed":
            yield f"media: {media.name}", lambda media=media: check_media_attack(target, media, enemy)
    for sent in [*TRICKS, *BODIES, *key_attacks(target)]:
        yield f"request: {sent.name}", lambda sent=sent: check_request_attack(target, sent)
    yield "chat page: addresses in place of files", lambda: check_page_opens_nothing(target, enemy)


if __name__ == "__main__":
    sys.exit(main())
