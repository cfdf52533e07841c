"""Samples of the multiple-choice benchmarks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.evaluate.tasks.mlvu import CHOICE_FILES, task_of
from pipelines.evaluate.tasks.mvbench import SUBTASKS
from pipelines.evaluate.tasks.samples.clips import write_clip, write_frames, write_json

_LOOKS = (("red", "circle"), ("green", "square"), ("blue", "triangle"), ("yellow", "star"), ("cyan", "square"))


def write_egoschema(folder: Path) -> None:
    questions, answers, origins = [], {}, {}
    for number, (colour, shape) in enumerate(_LOOKS):
        uid = f"{number:08x}-1111-4222-8333-944444444444"
        write_clip(folder / "videos" / f"{uid}.mp4", colour, shape)
        sentences = [f"C looks at a {each} shape on the wall." for each, _ in _LOOKS]
        questions.append(
            {
                "q_uid": uid,
                "google_drive_id": "1AbCdEfGhIjKlMnOpQrStUvWxYz012345",
                "question": "What does c mainly look at in the room?",
                **{f"option {i}": sentence for i, sentence in enumerate(sentences)},
            }
        )
        answers[uid] = number
        origins[uid] = {
            "video_uid": f"room-{number // 2}",
            "starting_sec": 180 * number,
            "ending_sec": 180 * number + 180,
        }
    write_json(folder / "questions.json", questions)
    write_json(folder / "subset_answers.json", answers)
    write_json(folder / "uid_to_ego4d.json", origins)


def write_mvbench(folder: Path) -> None:
    video = folder / "video"
    colours = ["Red.", "Green.", "Blue.", "Yellow."]
    rows: dict[str, dict[str, Any]] = {
        "action_sequence": {
            "video": "ROOM1.mp4",
            "question": "Which colour appeared after the room was empty?",
            "candidates": colours,
            "answer": "Red.",
            "start": 0.4,
            "end": 3.6,
        },
        "action_antonym": {
            "video": "4242.webm",
            "question": "What happens in the video?",
            "candidates": ["A shape appears.", "A shape is painted over.", "not sure"],
            "answer": "A shape appears.",
        },
        "episodic_reasoning": {
            "video": "room_s01e01_seg01_clip_00",
            "question": "Which shape is on the wall when the room is seen?",
            "candidates": ["A circle ", "A square", "A triangle", "A star", "Nothing"],
            "answer": "A triangle",
            "start": 1,
            "end": 5.5,
        },
        "fine_grained_pose": {
            "video": "S001C001P001R001A001_rgb.avi",
            "question": "Which colour does the shape have?",
            "candidates": colours,
            "answer": "Yellow.",
        },
        "moving_attribute": {
            "video": "video_10001.mp4",
            "question": "Which shape does not move?",
            "candidates": ["Square", "Circle"],
            "answer": "Square",
        },
    }
    for subtask in SUBTASKS:
        write_json(folder / "json" / f"{subtask}.json", [rows[subtask]] if subtask in rows else [])
    write_clip(video / "star/Charades_v1_480/ROOM1.mp4", "red", "circle")
    write_clip(video / "ssv2_video/4242.webm", "green", "square")
    write_frames(video / "tvqa/frames_fps3_hq/room_s01e01_seg01_clip_00", "{:05d}.jpg", "blue", "triangle", 18)
    write_clip(video / "nturgbd/S001C001P001R001A001_rgb.avi", "yellow", "star")
    write_clip(video / "clevrer/video_validation/video_10001.mp4", "cyan", "square")


def write_video_mme(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = []
    videos = (("001", "short", "AAAAAAAAAAA", *_LOOKS[0]), ("301", "medium", "-BBBBBBBB_b", *_LOOKS[1]))
    for video_id, duration, stem, colour, shape in videos:
        write_clip(folder / "data" / f"{stem}.mp4", colour, shape, seconds=8)
        questions = [
            ("Which colour does the shape have?", ["Red", "Green", "Blue", "Yellow"], colour, "Attribute Perception"),
            ("Which shape is seen?", ["Circle", "Square", "Triangle", "Star"], shape, "Object Recognition"),
            ("How many shapes are seen?", ["One", "Two", "Three", "Four"], "one", "Counting Problem"),
        ]
        for number, (question, options, answer, kind) in enumerate(questions, 1):
            label = "ABCD"[[option.lower() for option in options].index(answer)]
            rows.append(
                {
                    "video_id": video_id,
                    "duration": duration,
                    "domain": "Knowledge",
                    "sub_category": "Astronomy",
                    "url": f"https://www.youtube.com/watch?v={stem}",
                    "videoID": stem,
                    "question_id": f"{video_id}-{number}",
                    "task_type": kind,
                    "question": question,
                    "options": [f"{letter}. {option}." for letter, option in zip("ABCD", options, strict=True)],
                    "answer": label,
                }
            )
    path = folder / "videomme/test-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:5]), path)
    cues = (
        ("0,500 --> 00:00:01,500", "[Music]"),
        ("1,900 --> 00:00:03,100", "look at"),
        ("3,900 --> 00:00:05,000", "a red one"),
    )
    font = '<font color="white" size=".72c">{}</font>'
    entries = [f"{n}\n00:00:0{times}\n{font.format(text)}\n" for n, (times, text) in enumerate(cues, 1)]
    (folder / "subtitle").mkdir(exist_ok=True)
    (folder / "subtitle/AAAAAAAAAAA.srt").write_text("\n".join(entries), encoding="utf-8")


def write_mlvu(folder: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {file: [] for file in CHOICE_FILES}
    files = ("1_plotQA", "1_plotQA", "2_needle", "4_count", "7_topic_reasoning")
    for number, (file, (colour, shape)) in enumerate(zip(files, _LOOKS, strict=True)):
        video = f"{task_of(file)}_{number}.mp4"
        write_clip(folder / "MLVU/video" / file / video, colour, shape)
        candidates = ["Red", "Green", "Blue", "Yellow"] if number < 4 else ["Cyan", "Red", "Green", "Blue"]
        rows[file].append(
            {
                "video": video,
                "duration": 4 if number % 2 else 4.0,
                "question": "What is the colour of the shape?",
                "candidates": candidates,
                "answer": colour.capitalize(),
                "question_type": "findNeedle" if file == "2_needle" else task_of(file),
            }
        )
    for file, content in rows.items():
        write_json(folder / "MLVU/json" / f"{file}.json", content)


def write_nextqa(folder: Path) -> None:
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4"
    lines, places = [header], {}
    colours = ",".join(colour for colour, _ in _LOOKS)
    questions = (
        ("why does the wall look different in the middle", "to shine,a shape appears,rain,none,a door", 1, "CW"),
        ("what colour does the shape have", colours, 1, "DO"),
        ("what happens after the shape is seen", "it grows,a dog comes,none,the room is empty,it talks", 3, "TN"),
        ("what was there before the shape came", "an empty room,a dog,a man,a car,a tree", 0, "TP"),
        ("how many shapes are seen", "two,three,one,four,five", 2, "DC"),
    )
    for number, (question, options, answer, kind) in enumerate(questions):
        look = min(number, 1)
        video = str(10000000000 + look)
        places[video] = f"010{look}/{video}"
        lines.append(f"{video},20,128,96,{question},{answer},{number},{kind},{options}")
        write_clip(folder / "NExTVideo" / f"{places[video]}.mp4", *_LOOKS[look])
    path = folder / "dataset/nextqa"
    path.mkdir(parents=True, exist_ok=True)
    (path / "val.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(path / "map_vid_vidorID.json", places)


def write_egoplan(folder: Path) -> None:
    frames, rate = 60, 30
    write_frames(folder / "EPIC-KITCHENS/P00/rgb_frames/P00_01", "frame_{:010d}.jpg", *_LOOKS[0], frames)
    uid = "aaaaaaaa-1111-4222-8333-944444444444"
    write_clip(folder / "Ego4D/v1_288p" / f"{uid}.mp4", *_LOOKS[1], seconds=frames // rate, rate=rate)
    choices = ("take sponge", "open tap", "dry cup", "close tap")
    rows = []
    for number, answer in enumerate("CABDA"):
        kitchen = number % 2 == 0
        done = [
            (1, 8, "pick up cup"),
            (9, 20, "open tap"),
            (18, 29, "rinse cup"),
            (30, 39, "close tap"),
            (40, 48, "dry cup"),
        ]
        actions = [{"narration_text": text, "start_frame": start, "stop_frame": stop} for start, stop, text in done]
        goal = "washing cup" if number == 3 else "wash cup"
        rows.append(
            {
                "sample_id": number,
                "video_source": "EpicKitchens" if kitchen else "Ego4D",
                "video_id": "P00_01" if kitchen else uid,
                "task_goal": goal,
                "question": f"What action should I take next in order to {goal}?",
                **{f"choice_{label}": choice for label, choice in zip("abcd", choices, strict=True)},
                "golden_choice_idx": answer,
                "answer": choices["ABCD".index(answer)],
                "current_observation_frame": 50,
                "task_progress_metadata": actions[:number],
            }
        )
    write_json(folder / "EgoPlan_validation.json", rows)
