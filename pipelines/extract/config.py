"""Configuration of extraction. What decides the stored content is in the digest; where and how fast is not."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import field_validator, model_validator

from pipelines.config import ON_DISK, Config, setting
from pipelines.extract.stages import Stages
from pipelines.store.schema import WINDOW_FRAMES


class FeatureConfig(Config):
    """What is stored for a frame."""

    dtype: Literal["float16", "bfloat16", "float8_e4m3fn"] = setting("float16", about="number format of features")
    siglip: bool = setting(False, about="LongVU: also store SigLIP features, so that answering needs no video")
    jpeg_edge_px: int = setting(
        0, about="longer edge in pixels of a thumbnail of every sampled frame; 0 for none", ge=0, le=1024
    )


class DecodeConfig(Config):
    """Actors that read and decode sources."""

    backend: Literal["pyav", "decord"] = setting("pyav", about="decoder")
    deadline_s: float = setting(900.0, about="seconds that one chunk of a source may take", gt=0, in_digest=False)
    max_pixels: int = setting(
        64 << 20, about="pixels per frame; sources with more fail as TooLarge", ge=1, in_digest=False
    )
    cpus: float = setting(0.75, about="CPUs that Ray reserves per actor", gt=0, in_digest=False)
    max_actors: int | None = setting(None, about="actors at most; null: one per CPU", ge=1, in_digest=False)
    scratch: str | None = setting(
        None, about="folder for downloads from S3; null: the system's temporary folder", in_digest=False
    )
    read_attempts: int = setting(
        5, about="attempts to read a source whose storage does not answer, with growing waits", ge=1, in_digest=False
    )


class EncodeConfig(Config):
    """Actors that run the towers."""

    precision: Literal["float32", "bfloat16", "float16"] = setting("float32", about="number format of the towers")
    batch_frames: int = setting(
        64, about="frames per call of a tower; a multiple of 16", ge=16, multiple_of=WINDOW_FRAMES, in_digest=False
    )
    compile: bool | None = setting(
        None, about="compile the towers; null: on GPUs only. Pays after some thousand frames", in_digest=False
    )
    cpus: float = setting(0.75, about="CPUs that Ray reserves per actor", gt=0, in_digest=False)
    gpus: float | None = setting(
        None, about="GPUs per actor; null: 1 where the cluster has any, else 0", ge=0, in_digest=False
    )
    max_actors: int | None = setting(
        None, about="actors at most; null: one per GPU, or one where there is none", ge=1, in_digest=False
    )
    threads: int | None = setting(
        None, about="CPU threads of the towers per actor; null: torch's choice", ge=1, in_digest=False
    )


class CommitConfig(Config):
    """Actors that write the store."""

    cpus: float = setting(0.25, about="CPUs that Ray reserves per actor", gt=0, in_digest=False)
    max_actors: int | None = setting(None, about="actors at most; null: one per 4 CPUs", ge=1, in_digest=False)
    write_attempts: int = setting(
        5, about="attempts to write a unit when the store does not answer, with growing waits", ge=1, in_digest=False
    )
    compact_from: int = setting(
        1000, about="at the end, compact the store if so many units have records of their own", ge=1, in_digest=False
    )


class ExtractConfig(Config):
    """videos -> feature store."""

    name: str = setting(
        "features", about="name of the store; its folder adds the digest", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
    )
    source: str | list[str] = setting(
        about="folder, s3:// prefix, file, pattern, list of files (.txt .csv .tsv .json .jsonl .parquet); or several",
        in_digest=False,
    )
    source_column: str | None = setting(
        None, about="column of lists that names the files; null: video and image, or the usual names", in_digest=False
    )
    media_root: str | None = setting(
        None, about="folder or prefix where relative names in lists start; null: the list's folder", in_digest=False
    )
    store: str = setting("runs", about="root; the store is <root>/features/<name>-<digest>", in_digest=False)
    workdir: Annotated[str, ON_DISK] = setting(
        "runs", about="local folder for MLflow and preset models", in_digest=False
    )
    model: str = setting(
        "tiny",
        about="checkpoint folder or preset name of LongVU, LLaMA-VID or VideoLLaMB: its family's features are stored, "
        "its towers' digest is in store.json",
        in_digest=False,
    )
    sampling: str = setting("fps:1", about="which frames: fps:R (frames per second), uniform:N, with ,max:N")
    keep_threshold: float = setting(
        0.90,
        about="LongVU: frames with a window similarity below it are kept, and their features stored",
        gt=0,
        le=1,
    )
    keep_all_below: int = setting(
        256,
        about="LongVU: sources of at most so many sampled frames store them all: such a video fits a context of 8192 "
        "tokens as it is (16:9 at 36 tokens a frame), and the model then drops no frame",
        ge=0,
    )
    features: FeatureConfig = setting(FeatureConfig(), about="what is stored for a frame")
    unit_frames: int = setting(
        512,
        about="sampled frames per unit; longer sources are split; a multiple of 16",
        ge=WINDOW_FRAMES,
        in_digest=False,
    )
    stages: Stages = setting((), about="functions of your own that add columns for every sampled frame, in their order")
    decode: DecodeConfig = setting(DecodeConfig(), about="decode actors")
    encode: EncodeConfig = setting(EncodeConfig(), about="encode actors")
    commit: CommitConfig = setting(CommitConfig(), about="commit actors")
    max_failed_fraction: float = setting(
        0.1, about="fraction of failed sources above which the job ends with exit code 3", ge=0, le=1, in_digest=False
    )

    @field_validator("sampling")
    @classmethod
    def _sampling(cls, text: str) -> str:
        from longvu_model.video.sampling import FrameSampling

        return str(FrameSampling.parse(text))

    @model_validator(mode="after")
    def _units(self) -> Self:
        if self.unit_frames % self.encode.batch_frames:
            raise ValueError(
                f"unit_frames={self.unit_frames} must be a multiple of encode.batch_frames="
                f"{self.encode.batch_frames}, so that a split source is encoded in the same batches as a whole one"
            )
        return self
