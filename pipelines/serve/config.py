"""Settings of an endpoint: which models it serves, on what, for whom, and what it lets in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import model_validator

from pipelines.config import ON_DISK, Config, setting
from pipelines.serve.media import MediaPolicy

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$"


class ModelSettings(Config):
    """One model of the endpoint, and the replicas that answer for it."""

    name: str = setting(about="what requests call it", pattern=NAME_PATTERN)
    path: str = setting(about="checkpoint folder in our layout or a published one; or a preset, such as tiny")
    device: str = setting("cpu", about="cpu, cuda, cuda:1 ...", pattern=r"^(cpu|cuda(:\d+)?)$")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", about="of the weights")
    quantization: Literal["8bit", "4bit"] | None = setting(None, about="load weights in 8 or 4 bit")
    store: str | None = setting(None, about="feature store whose videos are answered without decoding or encoding")
    min_replicas: int = setting(1, about="replicas kept", ge=1)
    max_replicas: int = setting(1, about="replicas at most; Ray Serve starts them with load", ge=1)
    target_ongoing_requests: float = setting(8.0, about="requests per replica that autoscaling aims at", gt=0)
    upscale_delay_s: float = setting(15.0, about="load above that for so long starts replicas, in seconds", ge=0)
    downscale_delay_s: float = setting(600.0, about="load below it for so long stops some, in seconds", ge=0)
    num_cpus: float = setting(1.0, about="CPUs reserved per replica", ge=0)
    num_gpus: float = setting(0.0, about="GPUs reserved per replica", ge=0)
    surge_percent: int = setting(
        100, about="replicas started beyond the number during an update; 0 where no device is to spare", ge=0, le=100
    )
    slots: int = setting(16, about="requests decoded together", ge=1, le=1024)
    max_length: int | None = setting(None, about="tokens of a slot; null is the model's context", ge=64)
    prefill_chunk: int = setting(512, about="tokens of a prompt per step", ge=1)
    max_tokens_default: int = setting(512, about="limit on an answer when a request gives none, in tokens", ge=1)
    max_ongoing_tokens: int | None = setting(
        None, about="visual, text and answer tokens that a replica takes on; null is slots x max_length", ge=1
    )
    visual_cache_bytes: int = setting(2 << 30, about="encoded media kept in memory, in bytes", ge=0)
    spill_bytes: int = setting(8 << 30, about="encoded media kept on disk beyond that, in bytes", ge=0)
    prefix_cache_bytes: int = setting(1 << 30, about="keys and values of videos' prefixes kept, in bytes", ge=0)
    watchers: int = setting(2, about="media fetched, decoded and encoded at once per replica", ge=1)
    captions: int = setting(2, about="videos captioned scene by scene at once per replica", ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas={self.max_replicas} is below min_replicas={self.min_replicas}")
        return self


class AuthSettings(Config):
    """Who may ask. Keys are kept as SHA-256 only: ``longvu serve --new-key`` makes one and prints its entry."""

    required: bool = setting(True, about="whether every route but /health needs an API key")
    entries: tuple[str, ...] = setting((), about="keys as sha256:<64 hex digits>, optionally name=sha256:...")
    file: Path | None = setting(None, about="file with one entry per line; # begins a comment")
    environment: str = setting("LONGVU_API_KEYS", about="variable with entries separated by commas")


class UploadSettings(Config):
    """What ``/v1/videos`` keeps. All nodes with replicas must see the folder."""

    folder: Path | None = setting(None, about="where uploads lie; null is <workdir>/uploads")
    max_bytes: int = setting(4 << 30, about="largest upload, in bytes", ge=1)
    quota_bytes: int = setting(64 << 30, about="all uploads together, in bytes", ge=1)
    ttl_s: float = setting(24 * 3600.0, about="an upload is deleted so long after its last use, in seconds", gt=0)


class EndpointSettings(Config):
    """The HTTP side: parses, admits, streams."""

    replicas: int = setting(1, about="processes that handle HTTP", ge=1)
    num_cpus: float = setting(0.25, about="CPUs reserved for each", ge=0)
    max_body_bytes: int = setting(64 << 20, about="largest JSON body, data: URLs included, in bytes", ge=1024)
    idle_timeout_s: float = setting(30.0, about="longest pause within a request's body, in seconds", gt=0)
    min_body_bytes_per_s: float = setting(
        16 << 10, about="slowest body that is waited for, on average after idle_timeout_s, in bytes per second", gt=0
    )
    max_ongoing_requests: int = setting(1000, about="requests that one process handles at once", ge=1)
    drain_s: float = setting(60.0, about="time that requests get to end when a replica stops, in seconds", ge=0)
    ui: bool = setting(False, about="mount the chat page at /ui")


class TrackingSettings(Config):
    """What MLflow gets to know; records are sent in the background."""

    enabled: bool = setting(True, about="whether the endpoint is a run in MLflow, linked to what it serves")
    sample: float = setting(0.0, about="share of requests that leave a trace in that run", ge=0, le=1)
    texts: bool = setting(False, about="whether traces hold questions and answers")
    buffer: int = setting(256, about="traces held while MLflow is slow; more are dropped and counted", ge=1)


class ServeConfig(Config):
    """An endpoint."""

    name: str = setting("longvu", about="Ray Serve application", pattern=NAME_PATTERN, in_digest=False)
    workdir: Annotated[Path, ON_DISK] = setting(
        Path("runs"), about="caches, uploads and the MLflow database", in_digest=False
    )
    host: str = setting("127.0.0.1", about="address to listen on; 0.0.0.0 is every one", in_digest=False)
    port: int = setting(8000, about="port to listen on", ge=1, le=65535, in_digest=False)
    models: tuple[ModelSettings, ...] = setting(about="the models served, by name", min_length=1)
    auth: AuthSettings = setting(AuthSettings(), about="API keys", in_digest=False)
    media: MediaPolicy = setting(MediaPolicy(), about="which media may be fetched, and their limits")
    uploads: UploadSettings = setting(UploadSettings(), about="POST /v1/videos", in_digest=False)
    endpoint: EndpointSettings = setting(EndpointSettings(), about="HTTP", in_digest=False)
    tracking: TrackingSettings = setting(TrackingSettings(), about="MLflow", in_digest=False)
    url_ttl_s: float = setting(
        60.0, about="an http(s) URL is taken to give the same bytes for so long, in seconds; 0 fetches always", ge=0
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [model.name for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"two models have one name: {', '.join(names)}")
        if self.endpoint.ui and self.endpoint.replicas > 1:
            raise ValueError("endpoint.ui=true needs endpoint.replicas=1: the page keeps its sessions in one process")
        return self

    @property
    def upload_folder(self) -> Path:
        """Where uploads lie, absolute."""
        return (self.uploads.folder or self.workdir / "uploads").absolute()
