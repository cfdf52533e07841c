"""How soon an endpoint notices that a client has left, and how it gets over the death of a replica.

    python -m tests.benchmarks.serve_faults

Leaving: a client reads 20 tokens of a long streamed answer and closes its connection. `tokens after` is how many more
the engine made before the slot was free, beside those that were on their way to the client; the baseline is what it
would have made for a client that stays.

A killed replica (SIGKILL, with 6 clients asking): every request must be answered, or refused with 503 and Retry-After,
or end its stream with a retryable error. `back` is the time from the kill to the next answer that was asked for after
it; `whole` to the moment when /health has all replicas again.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

from longvu_model.presets import build_preset
from tests.faults.test_serving import MODEL_PROCESS, asking, one_request
from tests.pipelines.serve.endpoint import LiveEndpoint, live_endpoint, long_answer, tiny_model, wait_for

LEAVES = 10
READ_TOKENS = 20
LONG = 900
CLIENTS = 6


def leaving(endpoint: LiveEndpoint) -> None:
    """Print how many tokens are made for clients that have left."""
    request = {**long_answer(endpoint), "max_tokens": LONG}
    after = []
    for _ in range(LEAVES):
        ended, tokens = (endpoint.metric(f"longvu_cancelled{name}_total") for name in ("", "_tokens"))
        stream = endpoint.client().chat.completions.create(**request, stream=True, logprobs=True)
        read = 0
        for chunk in stream:
            read += sum(len(choice.logprobs.content or ()) for choice in chunk.choices if choice.logprobs)
            if read >= READ_TOKENS:
                break
        stream.close()
        wait_for(lambda before=ended: endpoint.metric("longvu_cancelled_total") > before)  # type: ignore[misc]
        after.append(endpoint.metric("longvu_cancelled_tokens_total") - tokens - read)
    print(
        f"leaving       {statistics.median(after):.0f} tokens after (median of {LEAVES}, most {max(after):.0f}); "
        f"{LONG - READ_TOKENS} for a client that stays"
    )


def killing(endpoint: LiveEndpoint, replicas: int) -> bool:
    """Print what a kill costs; whether every request was answered or got a retryable error."""
    outcomes: Counter[str] = Counter()
    with asking(endpoint.url, endpoint.key, outcomes, clients=CLIENTS, streamed=True):
        wait_for(lambda: outcomes["answered"] >= 5 * CLIENTS)
        killed_s = time.monotonic()
        assert endpoint.job.kill("replica", MODEL_PROCESS)
        back_s = first_answer_s(endpoint) - killed_s
        wait_for(lambda: count(endpoint) == replicas)
        whole_s = time.monotonic() - killed_s
        time.sleep(2.0)
    others = {name: number for name, number in outcomes.items() if name not in ("answered", "retryable")}
    print(f"{replicas} replica(s)  back after {back_s:.1f} s, whole after {whole_s:.1f} s (floor 20 s)")
    print(
        f"              {outcomes['answered']} answered, {outcomes['retryable']} retryable, "
        f"{sum(others.values())} otherwise (floor 0) {others or ''}"
    )
    return not others


def first_answer_s(endpoint: LiveEndpoint) -> float:
    while one_request(endpoint.url, endpoint.key, streamed=False).name != "answered":
        time.sleep(0.1)
    return time.monotonic()


def count(endpoint: LiveEndpoint) -> int:
    return int(json.loads(endpoint.get("/health")[2])["models"]["tiny"]["replicas"])


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    print(f"{platform.processor() or platform.machine()}, {psutil.cpu_count()} CPUs")
    good = True
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        preset = build_preset("tiny", folder / "models" / "tiny")
        for replicas in (1, 2):
            model = tiny_model(preset, min_replicas=replicas, max_replicas=replicas)
            with live_endpoint(folder / str(replicas), models=[model], endpoint={"num_cpus": 0.1}) as endpoint:
                wait_for(lambda there=endpoint, wanted=replicas: count(there) == wanted)  # type: ignore[misc]
                if replicas == 1:
                    leaving(endpoint)
                good &= killing(endpoint, replicas)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
