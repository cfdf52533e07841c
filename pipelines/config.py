"""Typed configuration: frozen models, YAML files with dotted overrides, a digest, errors that fit one screen.

Every field has a description that states its unit; a class with an undescribed field cannot be defined. The digest
covers the fields that change what a run computes, so output paths that carry it are reused exactly when they may be.
Fields that only say where or how fast (paths, actor counts) are declared with ``in_digest=False``.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Self, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipelines.errors import UserError

DIGEST_BYTES = 32


def _on_disk(place: Any) -> Any:
    if "://" in str(place):
        raise ValueError("must be a path, the same on every node; a bucket will not do")
    if place is not None and Path(str(place)).is_file():
        raise ValueError("is a file; must be a folder, or a path where one can be made")
    return place


ON_DISK = BeforeValidator(_on_disk)
"""For folders of what cannot be in a bucket: ``Annotated[str, ON_DISK]``."""


class ConfigError(UserError):
    """A configuration that cannot be used: one line per problem."""


def setting(default: Any = ..., *, about: str, in_digest: bool = True, **constraints: Any) -> Any:
    """A described field.

    Args:
        default: value when the field is not given; required when absent.
        about: what the field sets, with its unit.
        in_digest: whether another value means another result.
        constraints: pydantic's ``gt``, ``ge``, ``lt``, ``le``, ``multiple_of``, ``min_length``, ``pattern``.
    """
    return Field(default, description=about, json_schema_extra={"in_digest": in_digest}, **constraints)


class Config(BaseModel):
    """Base of every configuration and of its sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        undescribed = [name for name, field in cls.model_fields.items() if not field.description]
        assert not undescribed, f"{cls.__name__}: fields without a description: {undescribed}"

    def digest(self) -> str:
        """blake2b of the canonical JSON of the fields that decide the result, 64 hex digits."""
        canonical = json.dumps(_digested(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.blake2b(canonical.encode(), digest_size=DIGEST_BYTES).hexdigest()

    @property
    def digest12(self) -> str:
        """The first 12 hex digits of :meth:`digest`: what paths carry."""
        return self.digest()[:12]

    def flat(self) -> dict[str, Any]:
        """Every field by its dotted name, values as in JSON."""
        return dict(_flatten(self.model_dump(mode="json")))

    def changed(self, **values: Any) -> Self:
        """A copy with some fields replaced and everything checked again."""
        return type(self).model_validate({**self.model_dump(), **values})


ConfigT = TypeVar("ConfigT", bound=Config)


def load_config(cls: type[ConfigT], path: str | Path | None = None, overrides: Sequence[str] = ()) -> ConfigT:
    """Build a configuration from a YAML file and ``a.b=value`` overrides, the later ones winning.

    Override values are read as YAML (``1e-5``, ``true``, ``[a, b]``) except for text fields, which take them as they
    are, but for ``null`` where there may be none.

    Raises:
        ConfigError: the file is missing or no YAML mapping, an override is malformed, a key is unknown, or a value
            is outside its range. The message has one line per problem.
    """
    values = _read_yaml(Path(path)) if path is not None else {}
    for override in overrides:
        _apply(cls, values, override)
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        problems = _problems(cls, error)
    words = [override.partition("=")[0] for override in overrides]
    where = f"{path}: " if path is not None else ""

    def overridden(name: str) -> bool:
        return any(name.startswith(word) or (name and word.startswith(name)) for word in words)

    raise ConfigError("\n  ".join(line if overridden(name) else where + line for name, line in problems.items()))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(str(near) for near in path.parent.glob("*.y*ml"))
        hint = f"there are {', '.join(known)}" if known else "give the path of a YAML file"
        raise ConfigError(f"--config {path}: no such file; {hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: cannot be read ({error}); give the path of a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, not a {type(values).__name__}")
    return values


def _apply(cls: type[Config], values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    names = key.split(".")
    if not separator or not all(names):
        raise ConfigError(f"{override!r}: an override is key=value, for example {_example(cls)}")
    field = _field_at(cls, names)
    if field is not None and _takes_text(field.annotation):
        value = None if text == "null" and field.annotation is not str else text
    else:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{key}={text}: the value is not valid YAML") from None
    place: Any = values
    for depth, (name, following) in enumerate(pairwise(names), 1):
        place = _part(place, name, [] if following.isdigit() else {})
        if not isinstance(place, list if following.isdigit() else dict):
            raise ConfigError(f"{override}: {'.'.join(names[:depth])} does not exist or has no part {following!r}")
    if isinstance(place, list):
        raise ConfigError(f"{override}: set the fields of an item one by one, as {key}.<field>=...")
    place[names[-1]] = value


def _part(place: Any, name: str, empty: Any) -> Any:
    """A part of a section, or an item of a list; ``empty`` where it is new, None where there can be none."""
    if isinstance(place, dict):
        return place.setdefault(name, empty)
    if int(name) == len(place):
        place.append(empty)
    return place[int(name)] if int(name) < len(place) else None


def _example(cls: type[Config]) -> str:
    for name, field in cls.model_fields.items():
        if isinstance(field.default, int | float | str):
            return f"{name}={field.default}"
    return "name=value"


def _field_at(cls: type[Config], names: Sequence[str | int]) -> FieldInfo | None:
    model: type[Config] | None = cls
    field: FieldInfo | None = None
    for name in names:
        if field is not None and str(name).isdigit():
            continue  # an item of a list of sections
        field = model.model_fields.get(str(name)) if model else None
        if field is None:
            return None
        model = next(iter(_models(field.annotation)), None)
    return field


def _models(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    if get_origin(annotation) in (Union, UnionType, list, tuple):
        for part in get_args(annotation):
            yield from _models(part)


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts == [str]
    return annotation is str


def _problems(cls: type[Config], error: ValidationError) -> dict[str, str]:
    """A line for each field, by its name; the members of a union complain one by one, about the same value."""
    lines: dict[str, str] = {}
    for detail in error.errors(include_url=False):
        location = detail["loc"]
        while detail["type"] not in ("extra_forbidden", "missing") and location and _field_at(cls, location) is None:
            location = location[:-1]
        name = ".".join(str(part) for part in location)
        reason = _reason(cls, location, detail)
        lines[name] = f"{lines[name]}; or {reason}" if name in lines else _opening(name, detail) + reason
    return {name: line + _hint(cls, name) for name, line in lines.items()}


def _opening(name: str, detail: ErrorDetails) -> str:
    shows_value = name and detail["type"] not in ("extra_forbidden", "missing")
    return f"{name}={_shown(detail['input'])}: " if shows_value else f"{name}: " if name else ""


def _reason(cls: type[Config], location: tuple[int | str, ...], detail: ErrorDetails) -> str:
    if detail["type"] == "extra_forbidden":
        return _unknown_key(cls, location)
    if detail["type"] == "missing":
        return "is required"
    reason = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    field = _field_at(cls, location)
    return reason.replace("String should match", "must match") + (_allowed(field) if field else "")


def _hint(cls: type[Config], name: str) -> str:
    field = _field_at(cls, name.split("."))
    if field is None or name.rpartition(".")[2].isdigit():
        return ""
    if field.is_required():
        return f" ({field.description}); give it as {name}=..."
    if isinstance(field.default, Config):
        return f" ({field.description}); set its fields as {name}.<field>=..."
    return f" ({field.description}); the default is {name}={_shown(field.default)}"


def _unknown_key(cls: type[Config], location: tuple[int | str, ...]) -> str:
    section = _field_at(cls, location[:-1]) if len(location) > 1 else None
    model = next(iter(_models(section.annotation)), cls) if section else cls
    prefix = "".join(f"{part}." for part in location[:-1])
    near = difflib.get_close_matches(str(location[-1]), model.model_fields, n=1, cutoff=0.5)
    elsewhere = [
        known for known in _dotted_names(cls) if known.rpartition(".")[2] == str(location[-1]) and "." in known
    ]
    if elsewhere:
        fix = f"did you mean {elsewhere[0]}?"
    elif near:
        fix = f"did you mean {prefix}{near[0]}?"
    else:
        fix = f"known keys: {', '.join(prefix + known for known in model.model_fields)}"
    return f"unknown key; {fix}"


def _dotted_names(cls: type[Config], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield prefix + name
        for model in _models(field.annotation):
            yield from _dotted_names(model, f"{prefix}{name}.{_item(field)}")


def _item(field: FieldInfo) -> str:
    """What names of fields have between a list of sections and its first section."""
    return "0." if get_origin(field.annotation) in (list, tuple) else ""


def _allowed(field: FieldInfo) -> str:
    """The whole range where pydantic's message names only the bound that was broken."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(part, bound)}"
        for part in field.metadata
        for bound, sign in signs.items()
        if getattr(part, bound, None) is not None
    ]
    return f", allowed is {' and '.join(bounds)}" if len(bounds) > 1 else ""


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if isinstance(value, bool | list | dict | None) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _digested(config: Config) -> dict[str, Any]:
    dumped = config.model_dump(mode="json")
    return {
        name: _digested_value(getattr(config, name), dumped[name])
        for name, field in type(config).model_fields.items()
        if _in_digest(field)
    }


def _digested_value(value: Any, dumped: Any) -> Any:
    if isinstance(value, Config):
        return _digested(value)
    if isinstance(value, list | tuple):
        return [_digested_value(*item) for item in zip(value, dumped, strict=True)]
    return dumped


def _in_digest(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return not isinstance(extra, dict) or bool(extra.get("in_digest", True))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def reference(cls: type[Config], prefix: str = "") -> Iterator[str]:
    """One line per field for ``--help``: dotted name, default, what it sets."""
    for name, field in cls.model_fields.items():
        sections = list(_models(field.annotation))
        if sections and field.default is None:
            yield f"{prefix}{name}=null  {field.description}; {prefix}{name}={{}} for these defaults:"
        if sections:
            yield from reference(sections[0], f"{prefix}{name}.{_item(field)}")
            continue
        default = "required" if field.is_required() else _shown(field.default)
        yield f"{prefix}{name}={default}  {field.description}"
