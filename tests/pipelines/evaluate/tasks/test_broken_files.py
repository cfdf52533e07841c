"""Files with something wrong in them: the message has file, row and field; nothing is skipped in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import Row
from pipelines.evaluate.tasks.registry import task, task_names
from pipelines.evaluate.tasks.samples import Sample

Samples = Callable[[str], Sample]


@pytest.fixture
def copy(sample: Samples, tmp_path: Path) -> Callable[[str], Path]:
    """A sample of one's own; its videos are left out, as reading rows does not need them."""

    def copied(name: str) -> Path:
        return Path(
            shutil.copytree(
                sample(name).data, tmp_path / name, ignore=shutil.ignore_patterns("*.mp4", "*.jpg", "*.avi", "*.mkv")
            )
        )

    return copied


def rows(name: str, data: Path, *options: str, preset: str | None = None) -> list[Row]:
    return list(task(name, preset, options).rows(data))


def change_json(path: Path, row: int, **values: Any) -> None:
    content = json.loads(path.read_text())
    content[row] = {key: value for key, value in {**content[row], **values}.items() if value is not ...}
    path.write_text(json.dumps(content))


ABSENT: Any = ...
CHANGES: list[tuple[str, str, int, dict[str, Any], str]] = [
    ("egoschema", "questions.json", 2, {"question": ABSENT}, r"questions.json, row 3: question: is missing; an early"),
    ("egoschema", "questions.json", 0, {"option 4": ABSENT}, r"questions.json, row 1: option 4: is missing"),
    ("egoschema", "questions.json", 0, {"option 0": ["x"]}, r"row 1: option 0=\['x'\]: must be text"),
    ("egoschema", "questions.json", 1, {"q_uid": "elsewhere"}, r"subset_answers.json: 00000001-.* is not in questions"),
    (
        "mvbench",
        "json/action_sequence.json",
        0,
        {"end": "9"},
        r"action_sequence.json, row 1: end='9': must be a number",
    ),
    ("mvbench", "json/action_sequence.json", 0, {"end": 0.1}, r"end=0.1: must be after start=0.4"),
    ("mvbench", "json/action_sequence.json", 0, {"start": ABSENT}, r"action_sequence.json, row 1: start: is missing"),
    (
        "mvbench",
        "json/moving_attribute.json",
        0,
        {"answer": "Star"},
        r"row 1: answer='Star': is none of the candidates",
    ),
    ("mvbench", "json/moving_attribute.json", 0, {"candidates": "Square"}, r"candidates='Square': must be a list"),
    (
        "mvbench",
        "json/moving_attribute.json",
        0,
        {"candidates": []},
        r"candidates=\[\]: has 0 entries, must have 1 to 5",
    ),
    ("mlvu", "MLVU/json/1_plotQA.json", 1, {"candidates": ["Red"]}, r"1_plotQA.json, row 2: candidates=.* must have 4"),
    (
        "mlvu",
        "MLVU/json/2_needle.json",
        0,
        {"question_type": "plotQA"},
        r"2_needle.json, row 1: question_type='plotQA'",
    ),
    ("mlvu", "MLVU/json/4_count.json", 0, {"answer": ABSENT}, r"4_count.json, row 1: answer: is missing"),
    (
        "mlvu_generation",
        "MLVU/json/8_sub_scene.json",
        1,
        {"scoring_points": ABSENT},
        r"row 2: scoring_points: is missing",
    ),
    (
        "egoplan",
        "EgoPlan_validation.json",
        1,
        {"golden_choice_idx": "E"},
        r"row 2: golden_choice_idx='E': must be one of",
    ),
    ("egoplan", "EgoPlan_validation.json", 1, {"answer": "sing"}, r"row 2: answer='sing': is not choice A, 'take spon"),
    (
        "egoplan",
        "EgoPlan_validation.json",
        1,
        {"video_source": "Youtube"},
        r"video_source='Youtube': must be one of Ep",
    ),
    (
        "egoplan",
        "EgoPlan_validation.json",
        3,
        {"task_progress_metadata": [{"start_frame": 9, "stop_frame": 3}]},
        r"row 4: task_progress_metadata=.*entry 0: start_frame=9, stop_frame=3",
    ),
    ("msvd_qa", "test_qa.json", 0, {"video_id": 1971}, r"row 1: video_id=1971: must be a whole number from 1 to 1970"),
    ("msrvtt_qa", "test_qa.json", 4, {"id": 170859}, r"test_qa.json:5: its id '170859' is that of test_qa.json:1"),
    ("msrvtt_qa", "test_qa.json", 2, {"answer": " "}, r"test_qa.json, row 3: answer=' ': is empty"),
    ("activitynet_qa", "test_a.json", 2, {"question_id": "v_x_1"}, r"row 3: question_id='v_x_1': .*do not match"),
    ("activitynet_qa", "test_a.json", 2, {"type": 9}, r"row 3: type=9: must be a whole number from 0 to 8"),
]


@pytest.mark.parametrize(("name", "file", "row", "values", "message"), CHANGES)
def test_broken_row(
    name: str, file: str, row: int, values: dict[str, Any], message: str, copy: Callable[[str], Path]
) -> None:
    data = copy(name)
    change_json(data / file, row, **values)
    with pytest.raises(UserError, match=message):
        rows(name, data)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",3,2,TN,", ",3,2,TN,extra,", "row 3: has more fields than the header"),
        (",0,3,TP,", ",0,3,XX,", r"val.csv, row 4: type='XX': must be one of CW, CH"),
        (",0,3,TP,", ",7,3,TP,", r"val.csv, row 4: answer='7': must be a whole number from 0 to 4"),
        (",an empty room,", ",,", r"val.csv, row 4: a0='': is empty"),
        ("a0,a1", "b0,a1", r"val.csv, row 1: a0: is missing"),
        (",a tree", "", r"val.csv, row 4: a4=None: is missing"),
    ],
)
def test_broken_csv(old: str, new: str, message: str, copy: Callable[[str], Path]) -> None:
    data = copy("nextqa")
    path = data / "dataset/nextqa/val.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UserError, match=message):
        rows("nextqa", data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"answer": "E"}, r"parquet, row 4: answer='E': must be one of A, B, C, D"),
        ({"duration": "longish"}, r"parquet, row 4: duration='longish': must be one of short, medium, long"),
        ({"options": ["A. x", "B. y", "C. z"]}, r"row 4: options=.*has 3 entries, must have 4"),
        ({"options": ["A. x", "B. y", "D. z", "C. v"]}, r"row 4: options=.*'D. z' must begin with C\."),
        ({"videoID": None}, r"row 4: videoID=None: is missing"),
    ],
)
def test_broken_parquet(values: dict[str, Any], message: str, copy: Callable[[str], Path]) -> None:
    data = copy("video_mme")
    path = data / "videomme/test-00000-of-00001.parquet"
    content = pyarrow.parquet.read_table(path).to_pylist()
    content[3] |= values
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    with pytest.raises(UserError, match=message):
        rows("video_mme", data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'[{"q_uid": "a",]', "questions.json: line 1, column 16: not valid JSON"),
        (b'{"q_uid": "a"}', "questions.json: must be a list of rows, not an object"),
        (b'["a"]', "questions.json, row 1: must be an object with named fields, not a text"),
        (b"\xff\xfe\x00", "questions.json: is not text in UTF-8"),
    ],
)
def test_broken_json(content: bytes, message: str, copy: Callable[[str], Path]) -> None:
    data = copy("egoschema")
    (data / "questions.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        rows("egoschema", data)


def test_a_file_that_is_no_parquet(copy: Callable[[str], Path]) -> None:
    data = copy("video_mme")
    (data / "videomme/test-00000-of-00001.parquet").write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(UserError, match=r"test-00000-of-00001.parquet: not a Parquet file"):
        rows("video_mme", data)


@pytest.mark.parametrize("name", [name for name in task_names() if name != "needle_grid"])
def test_missing_files_say_where_to_get_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{name}: .* has no .*\nSource: |{name}: .* has no .*Source: "):
        rows(name, tmp_path)
    with pytest.raises(UserError, match=f"{name}: .*nowhere: no such folder"):
        rows(name, tmp_path / "nowhere")


def test_pairs_of_different_length(copy: Callable[[str], Path]) -> None:
    data = copy("activitynet_qa")
    answers = json.loads((data / "test_a.json").read_text())
    (data / "test_a.json").write_text(json.dumps(answers[:4]))
    with pytest.raises(UserError, match=r"test_q.json has 5 rows and test_a.json has 4"):
        rows("activitynet_qa", data)


def test_known_faults_of_mlvu_are_excluded_and_said(copy: Callable[[str], Path]) -> None:
    data = copy("mlvu")
    change_json(data / "MLVU/json/2_needle.json", 0, answer="Purple")
    empty = {"video": "", "question": "", "answer": "", "candidates": [], "duration": 0, "question_type": ""}
    change_json(data / "MLVU/json/7_topic_reasoning.json", 0, **empty)
    excluded = {row.id: row.excluded for row in rows("mlvu", data) if row.excluded}
    assert excluded == {
        "needle/0": "the answer is none of the candidates",
        "topic_reasoning/0": "the row is empty",
    }


def test_cut_clips_of_the_other_branch_are_refused(copy: Callable[[str], Path]) -> None:
    data = copy("mvbench")
    (data / "video/star/Charades_segment").mkdir(parents=True)
    with pytest.raises(UserError, match="is of the branch `video`"):
        rows("mvbench", data)


@pytest.mark.parametrize(("name", "options"), [("mvbench", "subtasks=[counting]"), ("mlvu", "tasks=[summary]")])
def test_unknown_parts(name: str, options: str, copy: Callable[[str], Path]) -> None:
    with pytest.raises(UserError, match=r"=(counting|summary): "):
        rows(name, copy(name), options)


def test_broken_subtitles(copy: Callable[[str], Path]) -> None:
    data = copy("video_mme")
    (data / "subtitle/AAAAAAAAAAA.srt").write_text("1\nnothing\n")
    assert len(rows("video_mme", data)) == 5
    with pytest.raises(UserError, match=r"AAAAAAAAAAA.srt: .*mend or delete the file"):
        rows("video_mme", data, "subtitles=true")
    shutil.rmtree(data / "subtitle")
    with pytest.raises(UserError, match=r"video_mme: .* has no subtitle"):
        rows("video_mme", data, "subtitles=true")
