"""Samples of the benchmarks with open answers."""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluate.tasks.samples.clips import write_clip, write_json

_QUESTIONS = (
    ("what is in the middle of the room?", "square"),
    ("what is seen?", "square"),
    ("how many shapes are there?", "one"),
    ("what colour is the circle?", "red"),
    ("what shape is red?", "circle"),
)


def write_msvd_qa(folder: Path) -> None:
    write_clip(folder / "video/vid1300.avi", "green", "square")
    write_clip(folder / "video/vid1301.avi", "red", "circle")
    rows = [
        {"answer": answer, "id": 40001 + n, "question": question, "video_id": 1300 if n < 3 else 1301}
        for n, (question, answer) in enumerate(_QUESTIONS)
    ]
    write_json(folder / "test_qa.json", rows)


def write_msrvtt_qa(folder: Path) -> None:
    write_clip(folder / "video/video7010.mp4", "green", "square")
    write_clip(folder / "video/video7011.mp4", "red", "circle")
    rows = [
        {
            "answer": answer,
            "category_id": 14,
            "id": 170859 + n,
            "question": question,
            "video_id": 7010 if n < 3 else 7011,
        }
        for n, (question, answer) in enumerate(_QUESTIONS)
    ]
    write_json(folder / "test_qa.json", rows)


def write_activitynet_qa(folder: Path) -> None:
    write_clip(folder / "all_test/v_abcDEF12_-x.mkv", "green", "square")
    write_clip(folder / "all_test/v_-bcDEF12__y.webm", "red", "circle")
    rows = (
        ("abcDEF12_-x", "is there a square in the room", "yes", 3),
        ("abcDEF12_-x", "what colour is the square", "green", 4),
        ("abcDEF12_-x", "how many shapes are there", "1", 7),
        ("-bcDEF12__y", "what happens when the room has been empty", "a shape appears", 2),
        ("-bcDEF12__y", "what is in the middle of the room", "circle", 5),
    )
    questions, answers = [], []
    for number, (video, question, answer, kind) in enumerate(rows):
        name = f"v_{video}_{number}"
        questions.append({"video_name": video, "question": question, "question_id": name})
        answers.append({"answer": answer, "type": kind, "question_id": name})
    write_json(folder / "test_q.json", questions)
    write_json(folder / "test_a.json", answers)


def write_mlvu_generation(folder: Path) -> None:
    scenes = [
        {
            "video": f"subPlot_{number}.mp4",
            "duration": 4.0,
            "question": "Please describe the scene when the shape appears.",
            "answer": f"A {colour} shape appears in the middle of an empty grey room.",
            "question_type": "subPlot",
            "scoring_points": [f"The shape is {colour}", "The room is grey"][: number + 1],
        }
        for number, colour in enumerate(("red", "green", "blue"))
    ]
    summaries = [
        {
            "video": f"{number}.mp4",
            "duration": 4,
            "question": "Please summarize the main content of this video.",
            "answer": f"An empty room, then a {colour} star, then the empty room again.",
            "question_type": "summary",
        }
        for number, colour in enumerate(("yellow", "cyan"))
    ]
    write_json(folder / "MLVU/json/8_sub_scene.json", scenes)
    write_json(folder / "MLVU/json/9_summary.json", summaries)
    for number, colour in enumerate(("red", "green", "blue")):
        write_clip(folder / f"MLVU/video/8_sub_scene/subPlot_{number}.mp4", colour, "circle")
    for number, colour in enumerate(("yellow", "cyan")):
        write_clip(folder / f"MLVU/video/9_summary/{number}.mp4", colour, "star")
