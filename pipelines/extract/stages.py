"""Stages of a user's own: one Python function that gives values for every sampled frame, added in the settings.

    import pyarrow as pa
    from pipelines.extract.stages import frame_stage

    @frame_stage(columns={"brightness": pa.float32()}, version="1", edge_px=64)
    def brightness(frames_THWC, pts_s, *, scale=1.0):
        return {"brightness": frames_THWC.mean(axis=(1, 2, 3)) * scale}

It is called once per part of a source (a short source whole, or a chunk of a long one) with uint8 RGB frames
(T, H, W, 3), read-only and T >= 1, and their times, float64 (T,) seconds; it returns one array-like of length T per
declared column (numpy, list or Arrow; None is null). What takes long to load goes into a class with
``__init__(self, **options)`` and ``__call__(self, frames_THWC, pts_s)``: every actor builds it once.

This file finds stages and checks what they declare, on the driver, before any source is read;
``stage_columns.py`` runs them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Annotated, Any, Literal, Self, TypeVar

import pyarrow as pa
from pydantic import AfterValidator, PrivateAttr, model_validator

from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.store.schema import StageColumns, arrow_type, frames_schema

DEFAULT_EDGE_PX = 384

# Also those that a store only has when it is asked for them, and those of the job's own stages in its report.
_TAKEN_COLUMNS = frozenset(frames_schema((), jpeg=True).names) | {"dinov2", "siglip", "eva", "languagebind"}
_TAKEN_NAMES = frozenset({"decode", "encode", "commit"})

Callee = TypeVar("Callee", bound=Callable[..., Any])


class StageError(UserError):
    """A user's stage that cannot be found, declares what cannot be stored, or failed; one line."""


@dataclass(frozen=True)
class Declaration:
    """What a stage says about itself: its columns, its version, and the longer edge of the frames it takes."""

    columns: tuple[pa.Field, ...]
    version: str
    edge_px: int


def frame_stage(
    columns: Mapping[str, pa.DataType], *, version: str = "1", edge_px: int = DEFAULT_EDGE_PX
) -> Callable[[Callee], Callee]:
    """Declare a function, or a class whose instances are called, as a stage.

    Args:
        columns: what it returns, by name: a plain Arrow type or a list of one, such as ``pa.list_(pa.float32())``.
        version: raise it when the same call gives other values; extraction then begins another store.
        edge_px: longer edge in pixels to which frames are reduced before they are handed over, never enlarged;
            0 for frames as they were decoded. A unit's frames travel together: 512 frames take 110 MB at 384 pixels
            and 16:9, and 3 GB at 0 and 1080p.

    Raises:
        StageError: a column's name or type cannot be stored, or a value is of the wrong kind.
    """
    for name, kind in columns.items():
        if not (isinstance(name, str) and name.isidentifier()):
            raise StageError(f"column {name!r}: a column's name has letters, digits and _ only")
        if name in _TAKEN_COLUMNS:
            raise StageError(f"column {name!r} is one of the store's own; give it another name")
        if not isinstance(kind, pa.DataType) or not _storable(kind):
            raise StageError(
                f"column {name!r}: {kind!r} is not a type that can be declared; use a plain Arrow type or a list of "
                "one, such as pa.float32(), pa.string(), pa.list_(pa.float32())"
            )
    if not columns:
        raise StageError("columns={}: declare at least one, such as columns={'score': pa.float32()}")
    if not (isinstance(version, str) and version):
        raise StageError(f"version={version!r}: must be text such as '1'")
    if not (isinstance(edge_px, int) and edge_px >= 0):
        raise StageError(f"edge_px={edge_px!r}: must be a number of pixels, or 0 for frames as decoded")
    fields = tuple(pa.field(name, kind) for name, kind in columns.items())

    def declare(callee: Callee) -> Callee:
        callee.__frame_stage__ = Declaration(fields, version, edge_px)  # type: ignore[attr-defined]
        return callee

    return declare


def _storable(kind: pa.DataType) -> bool:
    try:
        return arrow_type(str(kind)).equals(kind)
    except ValueError:
        return False


@dataclass(frozen=True)
class FrameStage:
    """A stage that was found, in a form that travels to other processes.

    Args:
        name: of its function or class; names it in reports.
        call: as in the settings.
        text: source of its file where ``call`` names one, so that workers need not have the file.
        options: keyword arguments.
        declared: by its decorator.
        nulls_on_error: whether a source for which it raises gets nulls; else the job ends.
    """

    name: str
    call: str
    text: str | None
    options: Mapping[str, Any]
    declared: Declaration
    nulls_on_error: bool = False

    @property
    def columns(self) -> StageColumns:
        """As ``store.json`` records it."""
        return StageColumns(self.name, self.call, self.declared.version, self.declared.columns)

    @property
    def schema(self) -> pa.Schema:
        """Of what it adds to the frames table."""
        return pa.schema(self.declared.columns)

    def build(self) -> Callable[..., Any]:
        """What is called with frames and times: the function with its options, or an instance of the class.

        Raises:
            StageError: the class's ``__init__`` failed.
        """
        callee: Any = _attribute(self.call, self.text)
        if not isinstance(callee, type):
            return functools.partial(callee, **self.options)
        try:
            built: Callable[..., Any] = callee(**self.options)
        except Exception as error:
            raise StageError(f"stage {self.name}: cannot be built: {described(error, self.call)}") from error
        return built


class StageConfig(Config):
    """A stage of the user's own."""

    call: str = setting(about="what to call: module:function, or path/to/file.py:function, or a class instead")
    options: dict[str, Any] = setting({}, about="keyword arguments of the function, or of the class's __init__")
    version: str | None = setting(None, about="declared by the stage; another one in the settings is refused")
    on_error: Literal["stop"] | None = setting(
        "stop",
        about="when it raises for a source: stop ends the job; null stores nulls for that source and counts it",
        in_digest=False,
    )
    cpus: float = setting(0.5, about="CPUs that Ray reserves per actor", ge=0, in_digest=False)
    gpus: float = setting(0.0, about="GPUs per actor", ge=0, in_digest=False)
    max_actors: int = setting(1, about="actors at most", ge=1, in_digest=False)
    _stage: FrameStage = PrivateAttr()

    @model_validator(mode="before")
    @classmethod
    def _takes_the_declared_version(cls, values: Any) -> Any:
        """The version belongs to the digest, so a stage is found as soon as it is named."""
        if not isinstance(values, Mapping) or not isinstance(values.get("call"), str):
            return values
        if values.get("version") is not None:
            return values
        options = values.get("options", {})
        found = find_stage(values["call"], options if isinstance(options, Mapping) else {})
        return {**values, "version": found.declared.version}

    @model_validator(mode="after")
    def _keeps_what_was_found(self) -> Self:
        """A file that is edited during a run of days must not change what the run does."""
        self._stage = find_stage(self.call, self.options, nulls_on_error=self.on_error is None)
        declared = self._stage.declared.version
        if declared != self.version:
            raise StageError(f"{self.call} declares version {declared!r}, the settings ask for {self.version!r}")
        return self

    @property
    def stage(self) -> FrameStage:
        """What the settings name."""
        return self._stage


def _without_clashes(stages: tuple[StageConfig, ...]) -> tuple[StageConfig, ...]:
    names: dict[str, str] = {}
    columns: dict[str, str] = {}
    for stage in stages_of(stages):
        if stage.name in names:
            raise StageError(f"{stage.call} and {names[stage.name]} are both named {stage.name!r}; rename one")
        names[stage.name] = stage.call
        for name in stage.schema.names:
            if name in columns:
                raise StageError(f"{stage.call} and {columns[name]} both declare column {name!r}; rename one")
            columns[name] = stage.call
    return stages


Stages = Annotated[tuple[StageConfig, ...], AfterValidator(_without_clashes)]
"""The settings of all stages, in the order in which they run."""


def find_stage(call: str, options: Mapping[str, Any], *, nulls_on_error: bool = False) -> FrameStage:
    """Import what ``call`` names, build nothing.

    Raises:
        StageError: it cannot be imported, is no stage, or does not take these options.
    """
    text = _file_text(call)
    callee = _attribute(call, text)
    declared = getattr(callee, "__frame_stage__", None)
    if not isinstance(declared, Declaration) or not callable(callee):
        raise StageError(f"call={call}: is no stage; decorate it with @frame_stage(columns={{...}}, version='1')")
    if callee.__name__ in _TAKEN_NAMES:
        raise StageError(f"call={call}: {callee.__name__} is a stage of the job itself; rename the function")
    _check_signature(call, callee, options)
    return FrameStage(callee.__name__, call, text, options, declared, nulls_on_error)


def _check_signature(call: str, callee: Callable[..., Any], options: Mapping[str, Any]) -> None:
    positional = () if isinstance(callee, type) else ("frames_THWC", "pts_s")
    signature = inspect.signature(callee)
    try:
        signature.bind(*positional, **options)
    except TypeError as error:
        takes = [name for name in list(signature.parameters)[len(positional) :]]
        wants = "" if isinstance(callee, type) else "frames and times, and "
        raise StageError(
            f"call={call}: {error}; it is called with {wants}options={dict(options)}, and takes the options "
            f"{', '.join(takes) or 'none'}"
        ) from None


def _split(call: str) -> tuple[str, str, bool]:
    """Module or file, attribute, and whether it is a file."""
    place, _, attribute = call.rpartition(":")
    if not place or not attribute.isidentifier():
        raise StageError(f"call={call}: must be module:function or path/to/file.py:function")
    return place, attribute, place.endswith(".py") or "/" in place


def _file_text(call: str) -> str | None:
    place, _, is_file = _split(call)
    if not is_file:
        return None
    try:
        return Path(place).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no text"
        raise StageError(
            f"call={call}: {place} cannot be read ({reason}); relative paths start at the folder of the command"
        ) from None


def _attribute(call: str, text: str | None) -> Any:
    place, attribute, _ = _split(call)
    try:
        module = importlib.import_module(place) if text is None else _module_of(place, text)
    except ModuleNotFoundError as error:
        file = place.replace(".", "/") + ".py"
        hint = f"install it, or give its file as {file}:{attribute}" if text is None else "install it on every node"
        raise StageError(f"call={call}: there is no module {error.name!r}; {hint}") from error
    except Exception as error:
        raise StageError(f"call={call}: cannot be imported: {described(error, call)}") from error
    if not hasattr(module, attribute):
        stages = [name for name, value in vars(module).items() if hasattr(value, "__frame_stage__")]
        raise StageError(f"call={call}: {place} has no {attribute!r}; its stages are: {', '.join(stages) or 'none'}")
    return getattr(module, attribute)


@functools.cache
def _module_of(path: str, text: str) -> types.ModuleType:
    """A module of a file's text; workers have the text and perhaps not the file."""
    name = f"{Path(path).stem}_{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
    module = sys.modules[name] = types.ModuleType(name)  # data classes look their module up there
    module.__file__ = path
    try:
        exec(compile(text, path, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def described(error: BaseException, call: str) -> str:
    """An exception in one line, with the line of the stage's own file that it came from."""
    lines = error.msg.splitlines() if isinstance(error, SyntaxError) else str(error).splitlines()
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return type(error).__name__ + (f": {said}" if said else "") + f" ({place_of(error, call)})"


def place_of(error: BaseException, call: str) -> str:
    """``file:line`` of the stage's own code that an exception came from; the call where none of it was running."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    place, _, is_file = _split(call)
    specification = None if is_file else importlib.util.find_spec(place)
    file = place if is_file else specification.origin if specification else None
    own = [frame for frame in extract_tb(error.__traceback__) if frame.filename == file]
    return f"{file}:{own[-1].lineno}" if own else call


def stages_of(configs: Sequence[StageConfig]) -> tuple[FrameStage, ...]:
    """The stages that the settings name, in their order."""
    return tuple(config.stage for config in configs)
