"""Settings: what loads, what the digest covers, and errors that a person can act on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.config import Config, ConfigError, load_config, reference, setting
from pipelines.evaluate.config import EvaluateConfig
from pipelines.extract.config import ExtractConfig
from pipelines.serve.config import ServeConfig
from pipelines.train.config import TrainConfig


class Inner(Config):
    rate: float = setting(1.0, about="frames per second", gt=0, le=10)
    workers: int = setting(1, about="processes", ge=1, in_digest=False)


class Outer(Config):
    name: str = setting("a", about="a name")
    path: str | None = setting(None, about="a path", in_digest=False)
    threshold: float = setting(0.9, about="a similarity", gt=0, lt=1)
    items: str | list[str] = setting("x", about="one or several")
    inner: Inner = setting(Inner(), about="a section")


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("name: b\ninner: {rate: 2}\n")
    config = load_config(Outer, file, ["inner.rate=5e-1", "inner.workers=3", "items=[p, q]"])
    assert (config.name, config.inner.rate, config.inner.workers, config.items) == ("b", 0.5, 3, ["p", "q"])


def test_text_fields_take_overrides_as_they_are() -> None:
    config = load_config(Outer, None, ["name=on", "path=123: x"])
    assert (config.name, config.path) == ("on", "123: x")
    config = load_config(Outer, None, ["name=null", "path=null"])  # only one of them can be without a value
    assert (config.name, config.path) == ("null", None)


def test_frozen() -> None:
    with pytest.raises(ValidationError):
        Outer().name = "b"  # type: ignore[misc]


def test_a_field_needs_a_description() -> None:
    with pytest.raises(AssertionError, match="without a description"):

        class Undescribed(Config):
            value: int = 1


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("treshold=0.5", ["treshold", "unknown key", "did you mean threshold?"]),
        ("rate=2", ["unknown key", "did you mean inner.rate?"]),
        ("inner.wrkers=2", ["inner.wrkers", "did you mean inner.workers?"]),
        ("zzz=2", ["unknown key", "known keys: name, path, threshold"]),
        ("threshold=1.5", ["threshold=1.5", "> 0 and < 1", "a similarity", "threshold=0.9"]),
        ("threshold=low", ["threshold=low", "valid number"]),
        ("inner.rate=0", ["inner.rate=0", "> 0 and <= 10", "frames per second"]),
        ("inner=3", ["inner=3", "inner.<field>="]),
        ("name.x=3", ["name"]),
        ("threshold", ["key=value"]),
        ("items={", ["not valid YAML"]),
        ("items=", ["items=null"]),
    ],
)
def test_errors_name_the_field_the_value_and_the_fix(override: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, None, [override])
    message = str(caught.value)
    assert all(part in message for part in expected), message
    assert "\n" not in message


@pytest.mark.parametrize("cls", [ExtractConfig, TrainConfig, EvaluateConfig, ServeConfig])
def test_a_bucket_is_refused_where_a_folder_is_needed(cls: type[Config]) -> None:
    with pytest.raises(ConfigError, match="workdir=s3://bucket/work: must be a path, the same on every node"):
        load_config(cls, None, ["workdir=s3://bucket/work"])


def test_every_problem_has_its_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, None, ["threshold=7", "nane=b", "inner.rate=x"])
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "no such file"), ("a: [1", "not valid YAML"), ("- a\n- b", "must hold"), ("nane: x", "did you mean name?")],
)
def test_file_errors_name_the_file(tmp_path: Path, content: str | None, expected: str) -> None:
    file = tmp_path / "c.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(Outer, file)
    assert str(file) in str(caught.value)


def test_the_file_is_not_blamed_for_words_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("threshold: 7\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, file, ["inner.rate=x", "nane=b"])
    by_field = {line.partition(str(file))[1]: line for line in str(caught.value).splitlines()}
    assert "threshold=7" in by_field[str(file)] and len(str(caught.value).splitlines()) == 3
    assert sum(str(file) in line for line in str(caught.value).splitlines()) == 1


def test_digest_covers_what_decides_the_result() -> None:
    digest = Outer().digest()
    assert len(digest) == 64 and Outer().digest12 == digest[:12]
    assert load_config(Outer, None, ["path=/elsewhere", "inner.workers=9"]).digest() == digest
    for override in ("name=b", "threshold=0.8", "items=y", "inner.rate=2"):
        assert load_config(Outer, None, [override]).digest() != digest


def test_digest_is_the_same_in_every_process_and_version() -> None:
    # Written down: a change here orphans every store that people have.
    expected = "bcdc98e854990fe3"
    code = "from tests.pipelines.test_config import Outer; print(Outer().digest())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == Outer().digest()
    assert printed.startswith(expected)


def test_digest_ignores_how_a_value_was_written() -> None:
    assert load_config(Outer, None, ["inner.rate=2"]).digest() == load_config(Outer, None, ["inner.rate=2.0"]).digest()


def test_flat_and_changed() -> None:
    assert Outer().flat()["inner.rate"] == 1.0
    assert Outer().changed(threshold=0.5).threshold == 0.5
    with pytest.raises(ValidationError):
        Outer().changed(threshold=2.0)


def test_reference_lists_every_field() -> None:
    lines = list(reference(Outer))
    assert len(lines) == 6
    assert "inner.rate=1.0  frames per second" in lines
