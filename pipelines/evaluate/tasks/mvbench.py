"""MVBench: twenty skills, two hundred multiple-choice questions each, on clips of eleven other data sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipelines.config import Config, setting
from pipelines.errors import UserError
from pipelines.evaluate.tasks.base import LETTERS, Preset, Row
from pipelines.evaluate.tasks.choice import (
    IN_BRACKETS,
    LLAVA_STYLE,
    MVBENCH_STYLE,
    QUESTION_OPTIONS,
    ChoiceStyle,
    ChoiceTask,
)
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, find_media, json_records


@dataclass(frozen=True)
class Source:
    """Where a subtask's clips lie under ``video/``, and what they are."""

    folder: str
    bounded: bool = False
    frame_rate: float | None = None
    """Pictures per second where clips are folders of pictures."""


_CHARADES = Source("star/Charades_v1_480", bounded=True)
_CLEVRER = Source("clevrer/video_validation")
_PERCEPTION = Source("perception/videos")
SUBTASKS: dict[str, Source] = {
    "action_sequence": _CHARADES,
    "action_prediction": _CHARADES,
    "action_antonym": Source("ssv2_video"),
    "fine_grained_action": Source("Moments_in_Time_Raw/videos"),
    "unexpected_action": Source("FunQA_test/test"),
    "object_existence": _CLEVRER,
    "object_interaction": _CHARADES,
    "object_shuffle": _PERCEPTION,
    "moving_direction": _CLEVRER,
    "action_localization": Source("sta/sta_video", bounded=True),
    "scene_transition": Source("scene_qa/video"),
    "action_count": _PERCEPTION,
    "moving_count": _CLEVRER,
    "moving_attribute": _CLEVRER,
    "state_change": _PERCEPTION,
    "fine_grained_pose": Source("nturgbd"),
    "character_order": _PERCEPTION,
    "egocentric_navigation": Source("vlnqa"),
    "episodic_reasoning": Source("tvqa/frames_fps3_hq", bounded=True, frame_rate=3.0),
    "counterfactual_inference": _CLEVRER,
}
OFFICIAL_SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)


class Options(Config):
    subtasks: tuple[str, ...] = setting((), about="names of the subtasks to run, such as [action_count]; empty: all 20")


class MVBench(ChoiceTask):
    """Rows of ``json/<subtask>.json``; ids are ``<subtask>/<number>``, as the files have none."""

    name = "mvbench"
    about = "20 skills x 200 questions with 2-5 options, some on parts of clips or folders of frames"
    source = (
        "huggingface.co/datasets/OpenGVLab/MVBench, branch main (MIT; each source's own terms for its clips; the clips "
        "of fine_grained_pose come from NTU RGB+D on request, ids in MVBench_videos_ntu.txt)"
    )
    layout = """\
json/<subtask>.json
video/star/Charades_v1_480/*.mp4             video/sta/sta_video/*.mp4
video/tvqa/frames_fps3_hq/<clip>/00001.jpg   video/clevrer/video_validation/*.mp4
video/perception/videos/*.mp4                video/ssv2_video/*.webm
video/Moments_in_Time_Raw/videos/...         video/FunQA_test/test/...
video/scene_qa/video/*.mp4                   video/nturgbd/*.avi
video/vlnqa/...                              video/data0613/... (merged into the above, or as unpacked)"""
    Options = Options
    mean_over = "subtask"
    presets: ClassVar[Mapping[str, Preset]] = {
        "longvu": Preset(
            about="LongVU, eval_mvbench.py",
            style="longvu",
            sampling="fps:2",
            max_new_tokens=5,
            model_settings={"drop_threshold": 0.8, "dino_threshold": 0.83},
        ),
        "official": Preset(
            about="MVBench's own notebook (VideoChat2): the middle of 16 equal parts",
            style="official",
            sampling="uniform:16",
            segments=16,
            max_new_tokens=100,
            system=OFFICIAL_SYSTEM,
            reply_prefix="Best option:(",
        ),
        "videollamb": Preset(
            about="VideoLLaMB, model_videoqa_mvbench.py: bounds of clips are ignored",
            style="llava",
            sampling="uniform:8",
            max_new_tokens=1024,
            temperature=0.2,
            bounds=False,
        ),
        "lmms": Preset(
            about="lmms-eval's prompt; it leaves frames to the model",
            style="lmms",
            sampling="uniform:32",
            max_new_tokens=16,
        ),
    }
    styles: ClassVar[Mapping[str, ChoiceStyle]] = {
        "longvu": MVBENCH_STYLE,
        "official": ChoiceStyle(OFFICIAL_SYSTEM + QUESTION_OPTIONS, IN_BRACKETS, "\nOnly give the best option."),
        "llava": LLAVA_STYLE,
        "lmms": ChoiceStyle("Question:{question}\nOption:\n", IN_BRACKETS, "\nOnly give the best option.\n"),
    }

    def load(self, data: Path) -> Iterator[Row]:
        unknown = set(self.options.subtasks) - SUBTASKS.keys()
        if unknown:
            raise UserError(f"subtasks={min(unknown)}: MVBench has {', '.join(SUBTASKS)}")
        for foreign in ("star/Charades_segment", "sta/sta_video_segment", "ssv2_video_mp4", "nturgbd_convert"):
            if (data / "video" / foreign).is_dir():
                raise UserError(
                    f"mvbench: {data / 'video' / foreign} is of the branch `video`, whose clips are cut already and "
                    "must not be mixed with main's. " + self.where_from()
                )
        for subtask in self.options.subtasks or SUBTASKS:
            for record in json_records(self.file(data, f"json/{subtask}.json"), data):
                yield self._row(data, subtask, record)

    def _row(self, data: Path, subtask: str, record: Record) -> Row:
        source, video = SUBTASKS[subtask], record.text("video")
        folders = [data / "video" / source.folder, data / "video/data0613" / source.folder]
        start_s, end_s = self._bounds(record) if source.bounded else (None, None)
        clip = Clip(
            find_media(folders, video),
            start_s,
            end_s,
            frames_dir=source.frame_rate is not None,
            frame_rate=source.frame_rate,
        )
        options = record.texts("candidates", 1, 5)
        return Row(
            id=f"{subtask}/{record.number - 1}",
            question=record.text("question"),
            clip=clip,
            options=options,
            answer=answer_label(record, options),
            categories={"subtask": subtask},
            cluster=video,
            where=record.where,
        )

    @staticmethod
    def _bounds(record: Record) -> tuple[float, float]:
        start_s, end_s = record.number_of("start"), record.number_of("end")
        if end_s <= start_s:
            raise record.error("end", f"must be after start={start_s:g}, in seconds")
        return start_s, end_s


def answer_label(record: Record, options: tuple[str, ...]) -> str:
    """The label of the option that equals the row's ``answer``, blanks around texts aside.

    Raises:
        UserError: none does.
    """
    answer = record.text("answer").strip()
    texts = [option.strip() for option in options]
    if answer not in texts:
        raise record.error("answer", "is none of the candidates")
    return LETTERS[texts.index(answer)]
