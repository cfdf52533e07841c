"""How rows are read where benchmarks differ from each other: paths, labels, splits, categories, submissions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.evaluate.tasks.base import Row, Task
from pipelines.evaluate.tasks.egoplan import progress_frames
from pipelines.evaluate.tasks.records import Record
from pipelines.evaluate.tasks.registry import task
from pipelines.evaluate.tasks.samples import Sample
from pipelines.evaluate.tasks.samples.clips import write_json

Samples = Callable[[str], Sample]


def read(name: str, data: Path, *options: str, preset: str | None = None) -> tuple[Task, list[Row]]:
    chosen = task(name, preset, options)
    return chosen, list(chosen.rows(data))


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def clips(rows: list[Row]) -> list[str]:
    return [row.clip.path for row in rows if row.clip is not None]


def test_egoschema_splits_clusters_and_folders(sample: Samples, tmp_path: Path) -> None:
    for file in ("questions.json", "uid_to_ego4d.json"):
        shutil.copy(sample("egoschema").data / file, tmp_path / file)
    answers = json.loads((sample("egoschema").data / "subset_answers.json").read_text())
    uids = list(answers)
    write_json(tmp_path / "subset_answers.json", {uids[1]: 4, uids[3]: 0})
    beside, other = touch(tmp_path / f"{uids[1]}.MKV"), touch(tmp_path / f"good_clips_git/{uids[3]}.avi")
    _, rows = read("egoschema", tmp_path)
    assert [(row.id, row.answer, row.cluster) for row in rows] == [(uids[1], "E", "room-0"), (uids[3], "A", "room-1")]
    assert clips(rows) == [beside, other]
    _, rows = read("egoschema", tmp_path, "split=full")
    assert [row.answer for row in rows] == [None, "E", None, "A", None]
    # What is not there is where it was published to be.
    assert clips(rows)[0] == str(tmp_path / "videos" / f"{uids[0]}.mp4")
    (tmp_path / "subset_answers.json").unlink()
    chosen, rows = read("egoschema", tmp_path, "split=full")
    assert chosen.score(rows[0], "(B)").status == "hidden"


def test_egoschema_submission(sample: Samples) -> None:
    chosen, rows = read("egoschema", sample("egoschema").data)
    replies = dict(zip([row.id for row in rows], ["(A)", "B", "no idea", "The answer is E."], strict=False))
    submitted = chosen.submission(rows, replies)
    assert submitted is not None
    table = list(csv.reader(io.StringIO(submitted.decode())))
    labels = ["0", "1", "-1", "4", "-1"]
    assert table == [["q_uid", "answer"], *([row.id, label] for row, label in zip(rows, labels, strict=True))]


def test_mvbench_paths_bounds_and_labels(sample: Samples, tmp_path: Path) -> None:
    shutil.copytree(sample("mvbench").data / "json", tmp_path / "json")
    merged = touch(tmp_path / "video/data0613/clevrer/video_validation/video_10001.mp4")
    _, rows = read("mvbench", tmp_path)
    by_task = {row.categories["subtask"]: row for row in rows}
    paths = {name: row.clip.path for name, row in by_task.items() if row.clip}
    video = tmp_path / "video"
    assert paths == {
        "action_sequence": str(video / "star/Charades_v1_480/ROOM1.mp4"),
        "action_antonym": str(video / "ssv2_video/4242.webm"),
        "episodic_reasoning": str(video / "tvqa/frames_fps3_hq/room_s01e01_seg01_clip_00"),
        "fine_grained_pose": str(video / "nturgbd/S001C001P001R001A001_rgb.avi"),
        "moving_attribute": merged,
    }
    episode = by_task["episodic_reasoning"].clip
    assert episode is not None
    assert (episode.frames_dir, episode.frame_rate, episode.start_s, episode.end_s) == (True, 3.0, 1.0, 5.5)
    bounded = by_task["action_sequence"].clip
    assert bounded is not None and (bounded.start_s, bounded.end_s) == (0.4, 3.6)
    assert by_task["moving_attribute"].clip.start_s is None  # type: ignore[union-attr]
    assert {name: row.answer for name, row in by_task.items()} == {
        "action_sequence": "A",
        "action_antonym": "A",
        "episodic_reasoning": "C",
        "fine_grained_pose": "D",
        "moving_attribute": "A",
    }
    chosen, some = read("mvbench", tmp_path, "subtasks=[fine_grained_pose, action_antonym]")
    assert [row.id for row in some] == ["fine_grained_pose/0", "action_antonym/0"]
    assert chosen.mean_over == "subtask"


def test_mvbench_reads_all_twenty(sample: Samples, tmp_path: Path) -> None:
    from pipelines.evaluate.tasks.mvbench import SUBTASKS

    assert len(SUBTASKS) == 20
    bounded = {name for name, source in SUBTASKS.items() if source.bounded}
    assert bounded == {
        "action_sequence",
        "action_prediction",
        "object_interaction",
        "action_localization",
        "episodic_reasoning",
    }
    for number, name in enumerate(SUBTASKS):
        rows = [
            {
                "video": f"v{number}_{i}.mp4",
                "question": "?",
                "candidates": ["x", "y"],
                "answer": "y",
                "start": 1,
                "end": 2,
            }
            for i in range(2)
        ]
        write_json(tmp_path / f"json/{name}.json", rows)
    _, rows = read("mvbench", tmp_path)
    assert len(rows) == 40 and {row.categories["subtask"] for row in rows} == set(SUBTASKS)


def test_bounds_are_ignored_where_the_published_code_does(sample: Samples, made: Path) -> None:
    written = sample("mvbench")
    for preset, frames in (("videollamb", None), ("longvu", 0.4)):
        chosen, rows = read("mvbench", written.data, "subtasks=[action_sequence]", preset=preset)
        assert chosen.shown(rows[0], made).sampling.start_s == frames


def test_equal_options_are_equally_right() -> None:
    row = Row("1", "Why?", None, ("Red ", "Green", "Red", "Blue"), "A")
    chosen = task("mlvu")
    assert [chosen.score(row, f"({label})").score for label in "ABCD"] == [1.0, 0.0, 1.0, 0.0]


def test_video_mme_options(sample: Samples, tmp_path: Path) -> None:
    data = sample("video_mme").data
    _, rows = read("video_mme", data, "durations=[medium]")
    assert [row.id for row in rows] == ["301-1", "301-2"]
    assert all(row.subtitles is None and "subtitles" not in row.categories for row in rows)
    shutil.copytree(data / "videomme", tmp_path, dirs_exist_ok=True)
    other = touch(tmp_path / "data/AAAAAAAAAAA.MP4")
    _, rows = read("video_mme", tmp_path)
    assert clips(rows)[0] == other


def test_video_mme_output_has_the_makers_form(sample: Samples) -> None:
    chosen, rows = read("video_mme", sample("video_mme").data)
    submitted = chosen.submission(rows, {rows[0].id: "A", rows[4].id: "C."})
    assert submitted is not None
    videos = json.loads(submitted)
    assert [(video["video_id"], video["duration"], len(video["questions"])) for video in videos] == [
        ("001", "short", 3),
        ("301", "medium", 2),
    ]
    assert set(videos[0]) == {"video_id", "duration", "domain", "sub_category", "questions"}
    assert videos[1]["questions"][1] == {
        "question_id": "301-2",
        "task_type": "Object Recognition",
        "question": "Which shape is seen?",
        "options": ["A. Circle.", "B. Square.", "C. Triangle.", "D. Star."],
        "answer": "B",
        "response": "C.",
    }


def test_nextqa_reads_none_as_text_and_finds_videos(sample: Samples, tmp_path: Path) -> None:
    written = sample("nextqa")
    chosen, rows = read("nextqa", written.data)
    assert rows[0].options[3] == "none" and rows[2].options[2] == "none"
    assert [row.categories["type"] for row in rows] == ["CW", "DO", "TN", "TN", "DC"]
    assert [Path(path).relative_to(written.data).as_posix() for path in clips(rows)[:2]] == [
        "NExTVideo/0100/10000000000.mp4",
        "NExTVideo/0101/10000000001.mp4",
    ]
    submitted = chosen.submission(rows, {rows[0].id: "(A)", rows[1].id: "no", rows[2].id: "D"})
    assert submitted is not None and json.loads(submitted) == {
        "10000000000_0": {"prediction": 0, "answer": 1},
        "10000000001_2": {"prediction": 3, "answer": 3},
    }
    shutil.copy(written.data / "dataset/nextqa/val.csv", tmp_path / "val.csv")
    flat = touch(tmp_path / "NExTVideo/10000000000.mp4")
    assert clips(read("nextqa", tmp_path)[1])[0] == flat


def test_nextqa_zero_shot_files(tmp_path: Path) -> None:
    options = {f"option {n}": text for n, text in enumerate("vwxyz")}
    asked = {"video_name": "77", "question_id": "77_3", "question": "why", "option": options}
    write_json(tmp_path / "NExT_Zero_Shot_QA/test_q.json", [asked])
    write_json(tmp_path / "NExT_Zero_Shot_QA/test_a.json", [{"answer": 4, "question_id": "77_3", "type": "CH"}])
    _, rows = read("nextqa", tmp_path, "files=zero_shot", preset="videollamb")
    assert [(row.id, row.options, row.answer, row.categories["group"]) for row in rows] == [
        ("77_3", tuple("vwxyz"), "E", "causal")
    ]


def test_egoplan_media(sample: Samples) -> None:
    data = sample("egoplan").data
    chosen, rows = read("egoplan", data)
    assert rows[0].clip is None
    kitchen, street = rows[2], rows[1]
    assert kitchen.clip is not None and kitchen.still is not None and street.clip is not None
    assert kitchen.clip.path == str(data / "EPIC-KITCHENS/P00/rgb_frames/P00_01")
    assert kitchen.clip.frame_name.format(7) == "frame_0000000007.jpg"
    assert street.clip.path.endswith("Ego4D/v1_288p/aaaaaaaa-1111-4222-8333-944444444444.mp4")
    assert kitchen.still.frame_numbers == (50,)
    assert kitchen.clip.frame_numbers is not None and len(kitchen.clip.frame_numbers) == 16
    assert [row.question.split(".")[0] for row in rows[2:4]] == [
        "My current task is to wash cup",
        "I am tasked with washing cup",
    ]
    submitted = chosen.submission(rows, {"0": "C", "1": "neither", "2": "dry cup"})
    assert submitted is not None
    assert json.loads(submitted) == [{"sample_id": 0, "label": "C"}, {"sample_id": 2, "label": "C"}]


def test_egoplan_shows_the_last_four_finished_actions() -> None:
    spans = [(1, 8), (9, 20), (18, 29), (30, 39), (40, 48), (45, 60)]
    actions = [{"narration_text": "", "start_frame": start, "stop_frame": stop} for start, stop in spans]
    numbers = progress_frames(Record("file", 1, {"task_progress_metadata": actions}), 50)
    assert len(numbers) == 4 * 8
    # The first is too long ago, the last not finished; the second is cut where the third begins, so is the fifth.
    assert (min(numbers), max(numbers)) == (9, 45)
    assert [number for number in numbers if number < 18] == [9, 10, 11, 12, 14, 15, 16]
    assert progress_frames(Record("file", 1, {"task_progress_metadata": []}), 50) == []


def test_egoplan_other_layouts(sample: Samples, tmp_path: Path) -> None:
    shutil.copy(sample("egoplan").data / "EgoPlan_validation.json", tmp_path)
    cut = touch(tmp_path / "3.mp4")
    _, rows = read("egoplan", tmp_path, preset="lmms")
    assert clips(rows)[3] == cut and all(row.still is None for row in rows)
    options = {f"option {n}": text for n, text in enumerate("wxyz")}
    asked = {"video_name": "uid_7", "question_id": "uid_7", "question": "what", "option": options, "task_goal": "go"}
    write_json(tmp_path / "test_q.json", [asked])
    write_json(tmp_path / "test_a.json", [{"answer": 2, "answer_act": "y", "question_id": "uid_7"}])
    _, rows = read("egoplan", tmp_path, preset="videollamb")
    assert [(row.id, row.answer, row.cluster) for row in rows] == [("uid_7", "C", "uid")]


def test_egoplan_test_split_hides_answers(sample: Samples, tmp_path: Path) -> None:
    rows = json.loads((sample("egoplan").data / "EgoPlan_validation.json").read_text())
    for row in rows:
        del row["golden_choice_idx"], row["answer"]
    write_json(tmp_path / "EgoPlan_test.json", rows)
    chosen, hidden = read("egoplan", tmp_path, "split=test")
    judged = chosen.score(hidden[0], "(C)")
    assert (judged.status, judged.parsed, judged.score) == ("hidden", "C", None)


@pytest.mark.parametrize(
    ("name", "file", "number"),
    [
        ("msvd_qa", "video/vid1300.avi", 1300),
        ("msvd_qa", "MSVD-QA/videos/1300.mp4", 1300),
        ("msrvtt_qa", "videos/video7010.mp4", 7010),
        ("msrvtt_qa", "MSRVTT-QA/videos/7010.mkv", 7010),
    ],
)
def test_clips_by_number(name: str, file: str, number: int, tmp_path: Path) -> None:
    write_json(tmp_path / "test_qa.json", [{"answer": "dog", "id": 1, "question": "What is it?", "video_id": number}])
    there = touch(tmp_path / file)
    assert clips(read(name, tmp_path)[1]) == [there]


def test_clips_by_name(tmp_path: Path) -> None:
    asked = {"video_name": "-4wsuPCjDBc_5_15", "question_id": "v_-4wsuPCjDBc_5_15_0", "question": "what is it?"}
    write_json(tmp_path / "test_q.json", [asked])
    write_json(tmp_path / "test_a.json", [{"answer": "dog", "question_id": "v_-4wsuPCjDBc_5_15_0"}])
    there = touch(tmp_path / "videos/-4wsuPCjDBc_5_15.avi")
    _, rows = read("msvd_qa", tmp_path)
    assert clips(rows) == [there] and rows[0].categories == {"question_word": "what"}


def test_activitynet_types_and_containers(sample: Samples) -> None:
    _, rows = read("activitynet_qa", sample("activitynet_qa").data)
    assert [row.categories["type"] for row in rows] == ["yes/no", "colour", "number", "temporal", "object"]
    assert {Path(path).name for path in clips(rows)} == {"v_abcDEF12_-x.mkv", "v_-bcDEF12__y.webm"}
    _, rows = read("activitynet_qa", sample("activitynet_qa").data, preset="lmms")
    assert rows[0].question == "Is there a square in the room?"


def test_mlvu_at_the_root(sample: Samples, tmp_path: Path) -> None:
    shutil.copytree(sample("mlvu").data / "MLVU/json", tmp_path / "json")
    there = touch(tmp_path / "video/2_needle/needle_2.mp4")
    chosen, rows = read("mlvu", tmp_path, "tasks=[needle]")
    assert clips(rows) == [there] and chosen.mean_over == "task"
