"""Configuration of an evaluation. What decides an answer or a score is in the digest; where and how fast is not."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import field_validator, model_validator

from longvu_model.video.sampling import FrameSampling
from pipelines.config import ON_DISK, Config, setting


class RequestsConfig(Config):
    """How an OpenAI-compatible endpoint is asked."""

    attempts: int = setting(
        8,
        about="attempts of a request that is refused (429), breaks off or ends in a server's error",
        ge=1,
        in_digest=False,
    )
    timeout_s: float = setting(600.0, about="seconds that one request may take", gt=0, in_digest=False)
    concurrency: int = setting(8, about="requests at a time, of one worker", ge=1, in_digest=False)
    key_variable: str = setting(
        "OPENAI_API_KEY", about="environment variable that holds the API key; unset: no key", in_digest=False
    )


class MediaFormConfig(Config):
    """In which form an endpoint gets the media."""

    form: Literal["frames", "video_url"] = setting(
        "frames",
        about="frames: sampled here, sent as JPEG image parts; video_url: the file's name, sampled by the server",
    )
    edge_px: int = setting(768, about="longer edge of a JPEG in pixels; larger frames are reduced", ge=16)
    quality: int = setting(90, about="JPEG quality", ge=1, le=100)


class JudgeConfig(Config):
    """The model that judges open answers."""

    endpoint: str = setting(about="base URL of an OpenAI-compatible endpoint, such as http://host:8000/v1")
    model: str = setting(about="the judge's name at that endpoint; it is part of every result")
    max_tokens: int = setting(512, about="tokens of a verdict at most", ge=1)
    temperature: float = setting(0.0, about="sampling temperature of the judge", ge=0)
    tries: int = setting(
        3, about="times that a judge whose verdict cannot be read is asked, each with another seed", ge=1
    )
    requests: RequestsConfig = setting(RequestsConfig(), about="how the judge's endpoint is asked")


class GenerationConfig(Config):
    """How replies are generated; null: as the task's preset says."""

    max_new_tokens: int | None = setting(None, about="tokens of a reply at most; null: the preset's", ge=1)
    temperature: float | None = setting(None, about="0: greedy; null: the preset's", ge=0)
    top_p: float = setting(1.0, about="nucleus sampling, where the temperature is above 0", gt=0, le=1)
    seed: int = setting(0, about="seed of sampling; every question has its own, made of this and its id", ge=0)


class MediaConfig(Config):
    """What is done about unusual media."""

    max_duration_s: float | None = setting(None, about="videos that last longer fail as TooLong; null: no limit", gt=0)
    damaged: Literal["fail", "ask"] = setting(
        "fail", about="a file of which only the beginning can be decoded: fail, or ask about what there is"
    )
    deadline_s: float = setting(
        1800.0, about="seconds that decoding one video may take; then it fails as Timeout", gt=0, in_digest=False
    )


class WorkersConfig(Config):
    """Processes that answer, as Ray places them. Each has its own copy of the model."""

    count: int | None = setting(
        None, about="workers; null: one per GPU, or one where there is none", ge=1, in_digest=False
    )
    cpus: float = setting(1.0, about="CPUs that Ray reserves per worker", gt=0, in_digest=False)
    gpus: float | None = setting(
        None, about="GPUs per worker; null: 1 where the cluster has any and the model is local", ge=0, in_digest=False
    )
    threads: int | None = setting(
        None, about="CPU threads of torch per worker; null: torch's choice", ge=1, in_digest=False
    )
    videos: int = setting(
        2, about="videos that a worker has in hand: one is decoded while another is asked about", ge=1, in_digest=False
    )
    slots: int = setting(16, about="questions that a worker answers at a time", ge=1, in_digest=False)
    attempts: int = setting(
        4, about="workers that a video may take down with it before it fails as WorkerDied", ge=1, in_digest=False
    )


class EvaluateConfig(Config):
    """checkpoint or endpoint + benchmark -> scores."""

    name: str = setting(
        "",
        about="name of the run; empty: the task's. Its folder adds a digest",
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
        in_digest=False,
    )
    task: str = setting(about="benchmark: longvu eval --tasks lists them")
    preset: str | None = setting(None, about="whose prompt and frame policy; null: the task's first")
    options: dict[str, Any] = setting({}, about="options of the task, see longvu eval --tasks")
    data: Annotated[str, ON_DISK] = setting(
        about="folder with the benchmark's files as they are distributed", in_digest=False
    )
    limit: int | None = setting(None, about="questions at most, the first ones; null: all", ge=1)
    output: str = setting("runs", about="root; the run is <root>/evaluate/<name>-<digest>", in_digest=False)
    workdir: Annotated[str, ON_DISK] = setting(
        "runs", about="local folder for MLflow, preset models and media made here", in_digest=False
    )
    model: str = setting(
        "tiny", about="checkpoint folder or preset name; with endpoint: the model's name there", in_digest=False
    )
    endpoint: str | None = setting(
        None, about="base URL of an OpenAI-compatible endpoint to ask instead of a local checkpoint", in_digest=False
    )
    requests: RequestsConfig = setting(RequestsConfig(), about="how the endpoint is asked")
    media_form: MediaFormConfig = setting(MediaFormConfig(), about="what the endpoint is sent")
    store: str | None = setting(
        None, about="feature store: videos that it has are neither decoded nor encoded; null: none", in_digest=False
    )
    frames: str | None = setting(
        None, about="which frames: fps:R, uniform:N or a published rule; null: as the preset says"
    )
    frame_selection: bool = setting(
        True, about="false: every sampled frame is kept (a baseline: frames=uniform:N at an equal number of tokens)"
    )
    model_settings: dict[str, float] = setting(
        {}, about="fields of the model's configuration that win over the preset's, such as drop_threshold"
    )
    mode: Literal["generate", "likelihood"] = setting(
        "generate", about="generate: replies are read strictly; likelihood: the likeliest option is the answer"
    )
    likelihood_of: Literal["label", "text"] | None = setting(
        None,
        about="what is compared: the options' labels, or their texts by mean log-likelihood of a token; "
        "null: as the preset says",
    )
    generation: GenerationConfig = setting(GenerationConfig(), about="how replies are generated")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = setting("auto", about="number format of the model")
    quantization: Literal["8bit", "4bit"] | None = setting(None, about="quantised weights; null: none")
    media: MediaConfig = setting(MediaConfig(), about="what is done about unusual media")
    judge: JudgeConfig | None = setting(None, about="who judges open answers; required by tasks that need a judge")
    workers: WorkersConfig = setting(WorkersConfig(), about="processes that answer")
    retry_failed: bool = setting(False, about="ask again what failed before", in_digest=False)
    max_failed_fraction: float = setting(
        0.1, about="fraction of failed questions above which the job ends with exit code 3", ge=0, le=1, in_digest=False
    )

    @field_validator("frames")
    @classmethod
    def _frames(cls, text: str | None) -> str | None:
        return None if text is None else str(FrameSampling.parse(text))

    @model_validator(mode="after")
    def _likelihood(self) -> Self:
        if self.mode == "likelihood" and self.endpoint is not None:
            raise ValueError("mode=likelihood needs a local checkpoint: endpoints do not tell the odds of given texts")
        if self.store is not None and self.endpoint is not None:
            raise ValueError("store= is for a local checkpoint: an endpoint takes videos, not features")
        return self
