"""`longvu ask` with the sibling models: of a file, and of a store of their features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.checkpoint import checkpoint_folder
from jobs.cli import main
from pipelines.config import load_config
from pipelines.extract.config import ExtractConfig
from pipelines.extract.towers import load_towers
from tests.jobs.test_cli import refused
from tests.pipelines.extract.conftest import extract_without_ray

QUESTION = "Which colour?"


@dataclass(frozen=True)
class Stored:
    """A preset, and a store of its features as the laptop's configuration makes it."""

    model: str
    uri: str
    frames: int


@pytest.fixture(scope="module", params=["tiny_llamavid", "tiny_videollamb"])
def stored(request: pytest.FixtureRequest, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    root = tmp_path_factory.mktemp("store")
    folder = checkpoint_folder(request.param)
    config = Path(__file__).resolve().parents[2] / "jobs" / "configs" / f"extract_{request.param}.yaml"
    settings = load_config(ExtractConfig, config, [f"source={video}", f"store={root}", f"workdir={root}"])
    store = extract_without_ray(settings, load_towers(folder))
    return Stored(request.param, store.uri, 40 if request.param == "tiny_llamavid" else 16)


def test_a_file_and_its_features_are_seen_alike(
    stored: Stored, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the model samples by itself; the store makes neither decoding nor encoding necessary."""
    words = ["ask", str(video), QUESTION, "--model", stored.model, "--max-new-tokens", "2", "--device", "cpu"]
    said = []
    for more in ([], ["--store", stored.uri]):
        assert main([*words, *more]) == 0
        said.append(capsys.readouterr().err.splitlines()[-1])
    direct, recalled = said
    assert direct.split("; decode ")[0] == recalled.split("; read ")[0]
    assert recalled.startswith(f"{stored.frames} frames sampled, ") and " encode " in direct
    assert "decode" not in recalled and "encode" not in recalled


def test_what_does_not_fit_is_refused(
    stored: Stored, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("ask", str(video), QUESTION, "--device", "cpu")
    assert "which LongVU" in refused(capsys, *words, "--store", stored.uri)
    assert "no such field" in refused(capsys, *words, "--model", stored.model, "--threshold", "0.8")
    assert "only LLaMA-VID reads them" in refused(
        capsys, *words, "--model", "tiny_videollamb", "--subtitles", str(tmp_path / "said.srt")
    )


def test_subtitles_stand_in_the_prompt(
    stored: Stored, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if stored.model != "tiny_llamavid":
        pytest.skip("only LLaMA-VID reads them")
    words = ["ask", str(video), QUESTION, "--model", stored.model, "--store", stored.uri, "--max-new-tokens", "1"]
    assert main(words) == 0
    text_tokens = [int(capsys.readouterr().err.splitlines()[-1].split(" visual tokens, ")[1].split()[0])]
    for said in ("yes", "a much longer sentence than that"):
        (tmp_path / "said.srt").write_text(f"1\n00:00:02,000 --> 00:00:04,000\n{said}\n")
        assert main([*words, "--subtitles", str(tmp_path / "said.srt")]) == 0
        text_tokens.append(int(capsys.readouterr().err.splitlines()[-1].split(" visual tokens, ")[1].split()[0]))
    assert text_tokens[0] < text_tokens[1] < text_tokens[2]
    assert "gone.srt" in refused(capsys, *words, "--subtitles", "gone.srt")
