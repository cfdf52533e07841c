"""A run that is hit by SIGKILL at a random moment and carried on until it is done."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.job import EXTRACT, VICTIMS, Job

# After the death of one of these the same command has to be given again; of the others Ray starts another one.
FATAL = frozenset({"driver", "raylet", "gcs"})
MOST_COMMANDS = 3


@dataclass(frozen=True)
class Interruption:
    """What happened.

    Args:
        victim: of :data:`tests.faults.job.VICTIMS`.
        before: how far the run was when the kill came; None when it ended before.
        exit_codes: of the commands that were given, the killed one's first.
        last_words: the last lines that each of them wrote to stderr.
        seconds: from the first command to the end of the last.
        ended_after_s: from the kill to the end of the killed command.
    """

    victim: str
    before: int | None
    exit_codes: tuple[int, ...]
    last_words: tuple[str, ...]
    seconds: float
    ended_after_s: float


def interrupt(
    words: Sequence[str],
    folder: Path,
    victim: str,
    *,
    progress: Callable[[], int],
    after: int,
    delay_s: float = 0.0,
    environment: Mapping[str, str] | None = None,
    command: Sequence[str] = EXTRACT,
    part: str | None = None,
) -> Interruption:
    """Start a job, kill one of its processes, and give the command again until it ends well.

    Args:
        progress: how far the run is; the kill comes ``delay_s`` after it has reached ``after``.
        part: of the victim's command line, where it is not the one in :data:`tests.faults.job.VICTIMS`.
    """
    part = part or VICTIMS[victim]
    started_s = time.monotonic()
    with Job(words, folder, environment, command) as job:
        there = job.wait_until(lambda: progress() >= after and (victim == "driver" or job.processes(part)))
        if there:
            time.sleep(delay_s)
        before = progress()
        killed = there and job.kill(victim, part)
        killed_s = time.monotonic()
        exit_codes = [job.wait()]
        last_words = [job.last_words]
        ended_after_s = time.monotonic() - killed_s
        # What the killed run left behind goes on until it notices: the next command has to live with it.
        while exit_codes[-1] not in (0, 3) and len(exit_codes) < MOST_COMMANDS:
            with Job(words, folder, environment, command) as again:
                exit_codes.append(again.wait())
                last_words.append(again.last_words)
    return Interruption(
        victim,
        before if killed else None,
        tuple(exit_codes),
        tuple(last_words),
        seconds=time.monotonic() - started_s,
        ended_after_s=ended_after_s,
    )


def random_moments(count: int, units: int, seed: int) -> list[tuple[str, int, float]]:
    """Victim, units to wait for, and delay in seconds of each of ``count`` kills; every kind of victim in turn."""
    chance = random.Random(seed)
    victims = list(VICTIMS)
    moments = []
    for number in range(count):
        victim = victims[number % len(victims)]
        # Decoding runs ahead of the commits, and an actor that has nothing more to do may already be gone.
        reach = units // 4 if victim in ("decode actor", "decoding child") else units * 9 // 10
        moments.append((victim, chance.randrange(max(1, reach)), chance.uniform(0, 0.2)))
    return moments
