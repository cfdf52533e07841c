"""A real endpoint for tests: `longvu serve` with the tiny model on a free port of this machine."""

from __future__ import annotations

import contextlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serve.auth import new_key
from pipelines.serve.config import ServeConfig
from tests.faults.job import Job
from tests.faults.s3_server import free_port

COMMAND = (sys.executable, "-m", "jobs.serve")
PATIENCE_S = 300.0


@dataclass(frozen=True)
class LiveEndpoint:
    """A running endpoint.

    Args:
        url: without /v1.
        key: that it admits.
        file_root: folder that file:// URLs may name.
        config: it runs with.
        job: its processes.
    """

    url: str
    key: str
    file_root: Path
    config: ServeConfig
    job: Job

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's client, which by default tries nothing twice."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **{"max_retries": 0, **options})

    def get(self, path: str, key: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their lower-case names, and body."""
        return self.send(urllib.request.Request(self.url + path), key)

    def post(self, path: str, body: bytes, content_type: str = "application/json") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        headers = {"Content-Type": content_type}
        return self.send(urllib.request.Request(self.url + path, body, headers, method="POST"))

    def send(self, request: urllib.request.Request, key: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """With this endpoint's key, or another."""
        request.add_header("Authorization", f"Bearer {self.key if key is None else key}")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
                return reply.status, lowered(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            return error.code, lowered(error.headers), error.read()

    def upload(self, path: Path) -> dict[str, Any]:
        """The video object of a file."""
        with path.open("rb") as file:
            return self.client().post("/videos", cast_to=dict, files={"file": (path.name, file)}, options=FORM)

    def metric(self, name: str, **labels: str) -> float:
        """Sum over the processes of a metric's samples with these labels."""
        families = text_string_to_metric_families(self.get("/metrics")[2].decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def lowered(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


FORM: Any = {"headers": {"Content-Type": "multipart/form-data"}}


def video_part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}, **more}


def ask(*parts: dict[str, Any] | str) -> Any:
    """One user message of these parts; texts as they are."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def long_answer(endpoint: LiveEndpoint, model: str = "tiny") -> dict[str, Any]:
    """A request that is answered to the limit of its ``max_tokens``, up to several hundred: most of the random model's
    answers end early."""
    for seed in range(100):
        request = {"model": model, "messages": ask("Hello"), "temperature": 2.0, "seed": seed}
        reply = endpoint.client().chat.completions.create(**request, max_tokens=900)
        if reply.choices[0].finish_reason == "length":
            return request
    raise AssertionError("every answer ended early")


def wait_for(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The condition's value as soon as it is true."""
    until_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < until_s, f"still not after {patience_s:g} s"
        time.sleep(0.05)
    return value


@contextlib.contextmanager
def live_endpoint(
    folder: Path, environment: Mapping[str, str] | None = None, **settings: Any
) -> Iterator[LiveEndpoint]:
    """Run ``longvu serve`` in processes of its own, with a Ray of its own; it is told to end, and must.

    Args:
        folder: for its files; file:// URLs may name what is in ``media`` below it.
        environment: variables beside those of this process.
        settings: of :class:`ServeConfig`.
    """
    key, entry = new_key()
    root = folder / "media"
    root.mkdir(parents=True, exist_ok=True)
    settings["media"] = {"file_roots": [str(root)], **settings.get("media", {})}
    settings = {"workdir": str(folder), "port": free_port(), "auth": {"entries": [entry]}, **settings}
    config = ServeConfig.model_validate(settings)
    (folder / "serve.yaml").write_text(yaml.safe_dump(settings))
    with Job(["--config", str(folder / "serve.yaml")], folder / "logs", environment, COMMAND) as job:
        live = LiveEndpoint(f"http://127.0.0.1:{config.port}", key, root, config, job)
        assert job.wait_until(lambda: "ready: " in job.stdout, PATIENCE_S), job.stderr[-4000:]
        yield live
        job.driver.terminate()
        assert job.wait(PATIENCE_S) == 0, job.stderr[-4000:]


def tiny_model(folder: Path, **settings: Any) -> dict[str, Any]:
    """Settings of the tiny model, small enough for a machine that does other things too."""
    sizes = {"visual_cache_bytes": 1 << 28, "prefix_cache_bytes": 1 << 28, "spill_bytes": 0}
    return {
        "name": "tiny",
        "path": str(folder),
        "num_cpus": 0.2,
        "slots": 4,
        "max_tokens_default": 16,
        **sizes,
        **settings,
    }
