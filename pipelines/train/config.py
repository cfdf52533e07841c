"""Configuration of a training run. What decides the weights is in the digest; where and how fast is not.

One run trains one stage: the image stage's export is the video stage's ``model``. The number of workers is not in the
digest, for it changes nothing but rounding: a run goes on with whatever number it is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import field_validator, model_validator

from pipelines import storage
from pipelines.config import ON_DISK, Config, setting
from pipelines.train.plan import PlanSettings
from pipelines.train.stages import Stage

if TYPE_CHECKING:
    import torch


CHUNK_TARGETS = 1024
"""Targets whose logits exist at a time: 0.6 GiB in float32 at the largest published vocabulary."""

Join = Literal["source", "content"]

Policy = Literal["skip", "rewind", "halt"]


class DataConfig(Config):
    """Which samples, and where their media are."""

    annotations: str = setting(about="LLaVA-style .json or .jsonl, or a .yaml that lists such files")
    heldout: str | None = setting(None, about="annotations of samples to evaluate on, of the same form; null: none")
    media_root: str = setting(".", about="folder or prefix that media paths start from", in_digest=False)
    store: str | None = setting(None, about="feature store of the media; null: decode and encode all", in_digest=False)
    online: bool = setting(True, about="decode and encode media that the store does not have", in_digest=False)
    join: Join = setting("source", about="source: media are found in the store by URI; content: also by their bytes")
    sampling: str = setting("fps:1", about="which frames of media that are not in the store: fps:R or uniform:N")
    subtitles: str | None = setting(
        None,
        about="LLaMA-VID's long_video stage: folder with <name of a video>.srt, written between its frames; null: none",
        in_digest=False,
    )
    on_too_long: Literal["error", "quarantine"] = setting("error", about="what to do about a sample beyond the budget")
    ignore_keys: tuple[str, ...] = setting((), about="keys of annotation rows that teach nothing")
    max_quarantined_fraction: float = setting(
        0.1,
        about="fraction of unusable rows above which nothing is trained, and of samples that cannot be read any more "
        "above which training stops",
        ge=0,
        le=1,
        in_digest=False,
    )

    @field_validator("sampling")
    @classmethod
    def _sampling(cls, text: str) -> str:
        from longvu_model.video.sampling import FrameSampling

        FrameSampling.parse(text)
        return text


class WorkersConfig(Config):
    """Processes that train, as Ray places them."""

    count: int = setting(1, about="workers; any number continues a run", ge=1, in_digest=False)
    cpus: float = setting(1.0, about="CPUs that Ray reserves per worker", gt=0, in_digest=False)
    gpus: float = setting(0.0, about="GPUs per worker", ge=0, in_digest=False)
    threads: int | None = setting(
        None, about="CPU threads of torch per worker; null: torch's choice", ge=1, in_digest=False
    )
    restarts: int = setting(20, about="times that dead workers are started again", ge=0, in_digest=False)
    reader_threads: int = setting(2, about="samples that a worker prepares at a time", ge=1, in_digest=False)
    steps_ahead: int = setting(2, about="steps whose samples are prepared ahead", ge=1, in_digest=False)
    peak_tflops: float | None = setting(
        None,
        about="TFLOP/s of one worker's device, for MFU (H100 in bfloat16: 989); null: no MFU",
        gt=0,
        in_digest=False,
    )


class CheckpointConfig(Config):
    """When training is saved, and what is kept."""

    every_steps: int = setting(
        500,
        about="steps of work that a kill may cost at most; a checkpoint begins every half of it, so that one is "
        "written while the one before counts",
        ge=1,
        in_digest=False,
    )
    every_s: float | None = setting(
        None,
        about="seconds after which a checkpoint begins in any case; null: steps alone decide",
        gt=0,
        in_digest=False,
    )
    keep_last: int = setting(2, about="newest checkpoints to keep", ge=1, in_digest=False)
    keep_best: bool = setting(True, about="also keep the one with the lowest held-out loss", in_digest=False)
    asynchronous: bool = setting(True, about="train on while a checkpoint is written", in_digest=False)

    @property
    def spacing(self) -> int:
        """Steps between checkpoints."""
        return max(1, self.every_steps // 2)


class EvaluationConfig(Config):
    """Looks at the held-out samples while training."""

    every_steps: int = setting(500, about="steps between evaluations; the last step is always followed by one", ge=1)
    most_samples: int | None = setting(None, about="held-out samples to look at; null: all", ge=1)


class EngineSettings(Config):
    """How the optimiser step is computed. Results agree between kinds and ZeRO stages up to rounding."""

    kind: Literal["torch", "deepspeed"] = setting("torch", about="plain torch, or DeepSpeed", in_digest=False)
    zero_stage: Literal[0, 1, 2, 3] = setting(
        2, about="what DeepSpeed spreads over workers: 1 moments, 2 gradients too, 3 weights too", in_digest=False
    )
    precision: Literal["float32", "bfloat16"] = setting(
        "float32", about="number format of weights and activations; bfloat16 keeps float32 weights in the optimiser"
    )
    attention: Literal["longvu_packed_sdpa", "flash_attention_2"] = setting(
        "longvu_packed_sdpa", about="attention of packed rows; the second needs flash-attn and a GPU", in_digest=False
    )
    gradient_checkpointing: bool = setting(False, about="recompute layers in the backward pass", in_digest=False)
    chunk_targets: int = setting(CHUNK_TARGETS, about="targets whose logits exist at a time", ge=1, in_digest=False)
    bucket_elements: int = setting(
        200_000_000, about="gradient elements that DeepSpeed reduces at a time", ge=1, in_digest=False
    )

    @model_validator(mode="after")
    def _supported(self) -> Self:
        if self.kind == "deepspeed" and self.zero_stage == 0 and self.precision == "bfloat16":
            raise ValueError(
                "zero_stage=0 with precision=bfloat16: DeepSpeed cannot accumulate in float32 there; use zero_stage=1"
            )
        return self

    @property
    def dtype(self) -> torch.dtype:
        import torch

        return torch.float32 if self.precision == "float32" else torch.bfloat16


class WatchConfig(Config):
    """What happens when the loss is not a number, or spikes."""

    non_finite: Policy = setting("halt", about="what to do about a loss or gradient that is not a number")
    spike: Policy = setting(
        "rewind",
        about="what to do about a loss far above those before it; rewind wants checkpoint.keep_last of 2 or more",
    )
    threshold: float = setting(10.0, about="standard deviations above the median from which a loss is a spike", gt=0)
    least_rise: float = setting(1.0, about="nats above the median under which no loss is a spike", ge=0)
    window: int = setting(100, about="losses that the next one is compared with", ge=8)
    warmup: int = setting(20, about="steps before any loss is called a spike", ge=8)
    most_refused: int = setting(20, about="batches that may be refused before the run is halted all the same", ge=0)


class TrainConfig(Config):
    """samples + features -> checkpoints."""

    name: str = setting(
        "train", about="name of the run; its folder adds the digest", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    output: str = setting("runs", about="root; the run is <root>/train/<name>-<digest>", in_digest=False)
    workdir: Annotated[str, ON_DISK] = setting(
        "runs", about="local folder for MLflow, Ray and preset models", in_digest=False
    )
    model: str = setting("tiny", about="checkpoint folder or preset name to start from")
    data: DataConfig = setting(about="samples and their media")
    stage: Stage = setting(Stage(), about="what is trained and how fast")
    token_budget: int = setting(8192, about="tokens of a packed row at most", ge=1)
    planned_ranks: int = setting(1, about="workers whose shares of a batch are to cost the same", ge=1)
    seed: int = setting(0, about="seed of the order of samples", ge=0)
    engine: EngineSettings = setting(EngineSettings(), about="how the optimiser step is computed")
    workers: WorkersConfig = setting(WorkersConfig(), about="processes that train")
    checkpoint: CheckpointConfig = setting(CheckpointConfig(), about="when training is saved")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), about="looks at held-out samples")
    watch: WatchConfig = setting(
        WatchConfig(), about="what happens when the loss is out of the ordinary", in_digest=False
    )
    audit: Annotated[str | None, ON_DISK] = setting(
        None, about="local folder that gets a line per step and worker: samples, loss; null: none", in_digest=False
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.token_budget < self.stage.max_sequence_length:
            raise ValueError(
                f"token_budget={self.token_budget} must be at least stage.max_sequence_length="
                f"{self.stage.max_sequence_length}: a sample is never split"
            )
        if self.engine.attention == "flash_attention_2" and not self.workers.gpus:
            raise ValueError("engine.attention=flash_attention_2 needs a GPU: set workers.gpus=1")
        return self

    def plan_settings(self) -> PlanSettings:
        return PlanSettings(
            token_budget=self.token_budget,
            global_batch_samples=self.stage.global_batch_samples,
            global_batch_tokens=self.stage.global_batch_tokens,
            planned_ranks=self.planned_ranks,
        )

    @property
    def run_uri(self) -> str:
        """Where this configuration's run is."""
        return storage.join(storage.resolve(self.output), "train", f"{self.name}-{self.digest12}")
