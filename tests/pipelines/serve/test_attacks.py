"""The live endpoint under attack: whatever is sent, it refuses, tells nothing, and goes on answering."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.pipelines.serve import hostile
from tests.pipelines.serve.attacks import ATTACKS, CONTENTS, FILES, SCHEMES, SPELLINGS, Attack
from tests.pipelines.serve.endpoint import LiveEndpoint
from tests.pipelines.serve.hostile import Hostile
from tests.pipelines.serve.live_attacks import (
    check_media_attack,
    check_page_opens_nothing,
    check_request_attack,
    check_slow_loris,
)
from tests.pipelines.serve.request_attacks import BODIES, TRICKS, RequestAttack, Target, key_attacks


@pytest.fixture(scope="module")
def enemy(endpoint: LiveEndpoint) -> Iterator[Hostile]:
    """Its media folder is the endpoint's."""
    running = hostile.start(endpoint.file_root.parent)
    yield running
    running.close()


@pytest.fixture(scope="module")
def target(endpoint: LiveEndpoint) -> Target:
    return Target(int(urlsplit(endpoint.url).port or 0), endpoint.key)


def ids(attack: Attack | RequestAttack) -> str:
    return attack.name.replace(" ", "_")


# The endpoint of the tests allows no host; those attacks that need one run in tests/benchmarks/serve_attacks.py.
CLOSED = [attack for attack in ATTACKS if attack.policy == "closed"]


@pytest.mark.parametrize("attack", [*SPELLINGS, *SCHEMES, *FILES, *CONTENTS, *CLOSED], ids=ids)
def test_media(attack: Attack, target: Target, enemy: Hostile) -> None:
    check_media_attack(target, attack, enemy)


@pytest.mark.parametrize("attack", [*TRICKS, *BODIES], ids=ids)
def test_requests(attack: RequestAttack, target: Target) -> None:
    check_request_attack(target, attack)


def test_every_route_needs_the_key(target: Target) -> None:
    attacks = list(key_attacks(target))
    assert len(attacks) > 200
    for attack in attacks:
        check_request_attack(target, attack)


def test_chat_page_opens_nothing(target: Target, enemy: Hostile) -> None:
    check_page_opens_nothing(target, enemy)


def test_slow_loris(target: Target) -> None:
    check_slow_loris(target)
