"""checkpoint -> endpoint: ``longvu serve``, an OpenAI-compatible server of videos on Ray Serve.

On a laptop this starts Ray and stays in the foreground; SIGTERM or Ctrl-C lets running answers end. On a cluster,
`serve deploy jobs/configs/serve_cluster.yaml` runs the same application and updates it without a pause. Clients are
OpenAI's own: base_url http://HOST:PORT/v1, the API key, and the video as a video_url part or as an upload.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.settings import SettingsParser
from jobs.terminal import note, quiet_libraries
from pipelines.config import load_config
from pipelines.errors import run_cli
from pipelines.serve.config import ServeConfig

if TYPE_CHECKING:
    from ray.serve import Application

# Settings of Ray's proxy, which takes them from the environment of the cluster.
PROXY = {
    # See ONE_LOOP in pipelines/serve/deployment.py.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    # After three times 5 s Ray 2.60 kills a proxy that is still starting, and the endpoint's start fails with it.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
}
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "serve_tiny.yaml"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``longvu serve``."""
    return run_cli(run, argv)


def run(argv: Sequence[str]) -> int:
    """Parse, serve until told to stop; returns the exit code."""
    options = build_parser().parse_args(argv)
    if options.new_key:
        from pipelines.serve.auth import new_key

        print("key, for the client:   {}\nentry, for the server: {}".format(*new_key()))
        return 0
    overrides = [*options.overrides, *(["endpoint.ui=true"] if options.ui else [])]
    config, key = _with_key(prepared(load_config(ServeConfig, options.config, overrides)))
    quiet_libraries()
    serve_until_told(config, key)
    return 0


def build_parser() -> SettingsParser:
    parser = SettingsParser("longvu serve", __doc__, ServeConfig, DEFAULT_CONFIG)
    parser.add_argument("--ui", action="store_true", help="a chat page at /ui; user any, password the API key")
    parser.add_argument("--new-key", action="store_true", help="print a fresh API key with its entry, and end")
    return parser


def application(args: dict[str, Any]) -> Application:
    """The application of a ``serve deploy`` file; ``args`` are the settings of :class:`ServeConfig`.

    Raises:
        UserError: a setting, checkpoint or store that cannot be used.
    """
    from pipelines.serve.deployment import application as build

    return build(prepared(ServeConfig.model_validate(args)))


def prepared(config: ServeConfig) -> ServeConfig:
    """The same with absolute paths and each model's checkpoint in place of its preset's name.

    Raises:
        UserError: no such checkpoint, or a store made with other towers.
    """
    from jobs.checkpoint import checkpoint_folder
    from pipelines.extract.towers import check_towers
    from pipelines.store import FeatureStore

    models = []
    for model in config.models:
        folder = checkpoint_folder(model.path).absolute()
        if model.store:
            check_towers(FeatureStore.open(model.store), folder)
        models.append(model.changed(path=str(folder)))
    return config.changed(models=models, workdir=config.workdir.absolute())


def serve_until_told(config: ServeConfig, key: str | None) -> None:
    """Start everything, say where it is, and drain it when the process is told to end."""
    from ray import serve
    from ray.serve.config import HTTPOptions, ProxyLocation

    from pipelines.ray_session import ray_session
    from pipelines.serve.deployment import application as build

    for name, value in PROXY.items():
        os.environ.setdefault(name, value)
    cpus = sum(model.num_cpus * model.max_replicas for model in config.models)
    with ray_session(cpus + config.endpoint.replicas * config.endpoint.num_cpus + 0.5):
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options=HTTPOptions(host=config.host, port=config.port),
            logging_config={"enable_access_log": False},
        )
        try:
            serve.run(build(config), name=config.name, route_prefix="/")
            wait_until_ready(config)
            told = threading.Event()
            # Ray 2.60 has put its own handler here, which ends the process at once.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: told.set())
            print(welcome(config, key), flush=True)
            told.wait()
            note("letting running answers end ...")
        finally:
            serve.delete(config.name)
            if not serve.status().applications:  # on a shared cluster, other people's go on
                serve.shutdown()


def wait_until_ready(config: ServeConfig) -> None:
    """Until ``/health`` says that every model has a replica."""
    while True:
        try:
            with urllib.request.urlopen(f"{base_url(config)}/health", timeout=5) as reply:
                if json.load(reply)["status"] == "ok":
                    return
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.2)


def base_url(config: ServeConfig) -> str:
    """Where this machine reaches the endpoint."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.host, config.host)
    return f"http://{host}:{config.port}"


def _with_key(config: ServeConfig) -> tuple[ServeConfig, str | None]:
    """With a key for this run where none is configured, so that an endpoint is never open by default."""
    from pipelines.serve.auth import load_keys, new_key

    if load_keys(config.auth.changed(required=False)) or not config.auth.required:
        return config, None
    key, entry = new_key()
    return config.changed(auth=config.auth.changed(entries=(entry,))), key


def welcome(config: ServeConfig, key: str | None) -> str:
    """What to do now that it answers: the address, and commands that can be pasted into a shell."""
    url = base_url(config)
    shown = key or "$LONGVU_API_KEY"
    part = {"type": "video_url", "video_url": {"url": "video:ID"}}
    text = {"type": "text", "text": "What happens?"}
    body = {"model": config.models[0].name, "messages": [{"role": "user", "content": [part, text]}]}
    header = f' -H "Authorization: Bearer {shown}"' if config.auth.required else ""
    lines = [f"ready: {url}/v1"]
    if key:
        lines.append(f"API key of this run: {key}")
    if config.endpoint.ui:
        lines.append(f"chat page: {url}/ui")
    lines += [
        f"  curl {url}/v1/videos{header} -F file=@VIDEO.mp4",
        f"  curl {url}/v1/chat/completions{header} --json {shlex.quote(json.dumps(body))}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
