"""EgoPlan: what to do next, from the last actions and the present view of somebody at work."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pipelines.config import Config, setting
from pipelines.evaluate.tasks.base import LETTERS, Preset, Row
from pipelines.evaluate.tasks.choice import BARE_STYLE, LETTER_DIRECTLY, LLAVA_STYLE, WITH_DOT, ChoiceStyle, ChoiceTask
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, find_media, json_records, paired

EPIC, EGO4D = "EpicKitchens", "Ego4D"
_ANY_FRAME = range(1 << 31)
_ACTIONS = 4
_FRAMES_PER_ACTION = 8
# Of the released frames and of Ego4D's canonical videos.
_RATES = {EPIC: 60.0, EGO4D: 30.0}


class Options(Config):
    split: Literal["validation", "test"] = setting(
        "validation", about="validation (3,355 rows) or test (1,584 rows, answers hidden)"
    )


class EgoPlan(ChoiceTask):
    """Rows of ``EgoPlan_<split>.json``; ids are ``sample_id``.

    The clips of the distributed media are made from the last four finished actions, eight frames each, and the frame
    of the present observation is shown after them.
    """

    name = "egoplan"
    about = "4 next actions to choose from, seen from first person in kitchens and elsewhere"
    source = (
        "github.com/ChenYi99/EgoPlan (questions); frames of epic-kitchens.github.io (CC BY-NC 4.0); videos of "
        "ego4d-data.org (its licence must be signed)"
    )
    layout = """\
EgoPlan_<split>.json
EPIC-KITCHENS/P01/rgb_frames/P01_01/frame_0000000001.jpg
Ego4D/v1_288p/<uid>.mp4
<sample_id>.mp4                   (preset lmms: one clip per row, also in videos/)
test_q.json, test_a.json, videos/<uid>_<n>.mp4   (preset videollamb)"""
    Options = Options
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(
            about="media as distributed, the makers' question with lettered options",
            style="letter",
            sampling="uniform:32",
            max_new_tokens=16,
        ),
        "official": Preset(
            about="the makers' way: the answer is the action of the lowest loss, so run it by likelihood",
            style="phrase",
            sampling="uniform:32",
            max_new_tokens=32,
            likelihood="text",
        ),
        "lmms": Preset(
            about="lmms-eval: one clip per row; it leaves frames to the model",
            style="lmms",
            sampling="uniform:32",
            max_new_tokens=4096,
        ),
        "videollamb": Preset(
            about="VideoLLaMB, model_videoqa_mc.py on its 923 Ego4D clips",
            style="llava",
            sampling="uniform:16",
            max_new_tokens=1024,
            temperature=0.2,
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "letter": ChoiceStyle("{question}\n", WITH_DOT, LETTER_DIRECTLY),
        "phrase": BARE_STYLE,
        "lmms": ChoiceStyle("{question}\n", WITH_DOT, LETTER_DIRECTLY.removesuffix(" directly.")),
        "llava": LLAVA_STYLE,
    }
    submission_name = "egoplan_answers.json"

    def load(self, data: Path) -> Iterator[Row]:
        if self.preset_name == "videollamb":
            questions = json_records(self.file(data, "test_q.json"), data)
            answers = json_records(self.file(data, "test_a.json"), data)
            for record in paired(questions, answers, "question_id"):
                yield self._cut_row(data, record)
            return
        for record in json_records(self.file(data, f"EgoPlan_{self.options.split}.json"), data):
            yield self._row(data, record)

    def _row(self, data: Path, record: Record) -> Row:
        number = record.integer("sample_id", _ANY_FRAME)
        options = tuple(record.text(f"choice_{label}") for label in "abcd")
        origin, video = record.one_of("video_source", (EPIC, EGO4D)), record.text("video_id")
        clip: Clip | None = Clip(find_media([data / "videos", data], str(number), (".mp4", ".mkv")))
        still = None
        if self.preset_name != "lmms":
            clip, still = self._media(data, record, origin, video)
        return Row(
            id=str(number),
            question=next_action_question(record.text("task_goal")),
            clip=clip,
            still=still,
            options=options,
            answer=self._answer(record, options),
            categories={"video_source": origin},
            cluster=video,
            where=record.where,
        )

    def _answer(self, record: Record, options: tuple[str, ...]) -> str | None:
        if self.options.split == "test" and not record.values.get("golden_choice_idx"):
            return None
        label = record.one_of("golden_choice_idx", "ABCD")
        answer = record.values.get("answer")
        if answer is not None and options[LETTERS.index(label)] != answer:
            raise record.error("answer", f"is not choice {label}, {options[LETTERS.index(label)]!r}")
        return label

    def _media(self, data: Path, record: Record, origin: str, video: str) -> tuple[Clip | None, Clip]:
        frames = origin == EPIC
        if frames:
            path = str((data / "EPIC-KITCHENS" / video.partition("_")[0] / "rgb_frames" / video).absolute())
        else:
            path = find_media([data / "Ego4D/v1_288p"], video, (".mp4",))
        present = record.integer("current_observation_frame", _ANY_FRAME)
        # Pictures are numbered from 1.
        numbers = [max(number, 1) if frames else number for number in progress_frames(record, present)]

        def clip(numbers: Sequence[int]) -> Clip:
            return Clip(
                path,
                frames_dir=frames,
                frame_rate=_RATES[origin],
                frame_name="frame_{:010d}.jpg",
                frame_numbers=tuple(numbers),
            )

        return clip(numbers) if numbers else None, clip([max(present, 1) if frames else present])

    def _cut_row(self, data: Path, record: Record) -> Row:
        given = record.get("option")
        names = [f"option {number}" for number in range(4)]
        if not isinstance(given, dict) or not all(isinstance(given.get(name), str) for name in names):
            raise record.error("option", "must hold the texts option 0 .. option 3")
        video = record.text("video_name")
        return Row(
            id=record.text("question_id"),
            question=record.text("question"),
            clip=Clip(find_media([data / "videos", data], video, (".mp4",))),
            options=tuple(given[name] for name in names),
            answer=LETTERS[record.integer("answer", range(4))],
            categories={"video_source": EGO4D},
            cluster=video.rpartition("_")[0],
            where=record.where,
        )

    def submission(self, rows: Sequence[Row], replies: Mapping[str, str]) -> bytes | None:
        """``[{"sample_id", "label"}]``; replies that commit to none are left out."""
        labels: list[dict[str, Any]] = []
        for row in rows:
            label = self.label(row, replies[row.id]) if row.id in replies else None
            if label is not None:
                labels.append({"sample_id": int(row.id) if row.id.isdecimal() else row.id, "label": label})
        return json.dumps(labels).encode()


def next_action_question(goal: str) -> str:
    """What the makers' code asks instead of the row's question."""
    if "goal" in goal and re.search(r"to\b", goal):
        goal = goal.split("to", 1)[1].strip()
    opening = "I am tasked with" if goal.split()[0].endswith("ing") else "My current task is to"
    return (
        f"{opening} {goal}. The task's progress is demonstrated in the provided video. My current field of view is "
        "shown in the provided image. What should be my next action? Please output the most reasonable action you "
        "think, expressed in a short phrase."
    )


def progress_frames(record: Record, present: int) -> list[int]:
    """Frame numbers of the last four actions that were finished at frame ``present``, eight each, evenly spaced.

    An action is cut where the next one begins. Actions of fewer than eight frames repeat some.
    """
    actions = record.get("task_progress_metadata")
    if not isinstance(actions, list):
        raise record.error("task_progress_metadata", "must be a list of actions")
    spans = []
    for position, action in enumerate(actions):
        span = [action.get(field) if isinstance(action, dict) else None for field in ("start_frame", "stop_frame")]
        start, stop = span
        if not isinstance(start, int) or not isinstance(stop, int) or not 0 <= start <= stop:
            raise record.error(
                "task_progress_metadata",
                f"entry {position}: start_frame={start!r}, stop_frame={stop!r}: must be two frame numbers in order",
            )
        spans.append((start, stop))
    following = [start for start, _ in spans[1:]]
    cut = [
        (start, max(start, min(stop, limit)))
        for (start, stop), limit in zip(spans, [*following, present], strict=False)
    ]
    done = [shortened for shortened, (_, stop) in zip(cut, spans, strict=True) if stop <= present]
    numbers = [np.linspace(start, stop, _FRAMES_PER_ACTION).astype(int).tolist() for start, stop in done[-_ACTIONS:]]
    return sorted(itertools.chain.from_iterable(numbers))
