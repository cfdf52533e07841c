"""A real endpoint for tests: Ray, Ray Serve, the tiny model, on a free port of this machine."""

from __future__ import annotations

import contextlib
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI
from prometheus_client.parser import text_string_to_metric_families

from pipelines.serve.auth import new_key
from pipelines.serve.config import ServeConfig

PATIENCE_S = 120.0


@dataclass(frozen=True)
class LiveEndpoint:
    """A running endpoint.

    Args:
        url: without /v1.
        key: that it admits.
        file_root: folder that file:// URLs may name.
        config: it runs with.
    """

    url: str
    key: str
    file_root: Path
    config: ServeConfig

    def client(self, **options: Any) -> OpenAI:
        """OpenAI's client, which by default tries nothing twice."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, **{"max_retries": 0, **options})

    def get(self, path: str, key: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
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
                return reply.status, dict(reply.headers), reply.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

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


FORM: Any = {"headers": {"Content-Type": "multipart/form-data"}}


def video_part(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "video_url", "video_url": {"url": url}, **more}


def ask(*parts: dict[str, Any] | str) -> Any:
    """One user message of these parts; texts as they are."""
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


def wait_for(condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """The condition's value as soon as it is true."""
    until_s = time.monotonic() + patience_s
    while not (value := condition()):
        assert time.monotonic() < until_s, f"still not after {patience_s:g} s"
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def live_endpoint(folder: Path, port: int, **settings: Any) -> Iterator[LiveEndpoint]:
    """Run an endpoint on the Ray that is there, whose Serve listens on ``port``.

    Args:
        settings: of :class:`ServeConfig`.
    """
    from ray import serve

    from pipelines.serve.deployment import application

    key, entry = new_key()
    root = folder / "media"
    root.mkdir(parents=True, exist_ok=True)
    media = {"file_roots": [str(root)], **settings.pop("media", {})}
    config = ServeConfig(workdir=folder, port=port, auth={"entries": [entry]}, media=media, **settings)
    endpoint = LiveEndpoint(f"http://127.0.0.1:{port}", key, root, config)
    serve.run(application(config), name=config.name, route_prefix="/")
    try:
        wait_for(lambda: is_ready(endpoint))
        yield endpoint
    finally:
        serve.delete(config.name)


def is_ready(endpoint: LiveEndpoint) -> bool:
    with contextlib.suppress(OSError):
        return bool(json.loads(endpoint.get("/health")[2] or b"{}").get("status") == "ok")
    return False


@contextlib.contextmanager
def serving_ray(port: int) -> Iterator[None]:
    """A Ray of our own with Serve's proxy on ``port``."""
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=2,
        object_store_memory=300 << 20,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            logging_config={"enable_access_log": False},
        )
        yield
    finally:
        serve.shutdown()
        ray.shutdown()
