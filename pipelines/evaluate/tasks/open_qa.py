"""Open questions with answers of a word or two: MSVD-QA and MSRVTT-QA; scored exactly or by a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pipelines.config import Config, setting
from pipelines.evaluate.tasks.base import Judged, Messages, Preset, Row, Task
from pipelines.evaluate.tasks.judge import qa_messages, read_verdict
from pipelines.evaluate.tasks.media import Clip
from pipelines.evaluate.tasks.records import Record, find_file, find_media, json_records, paired

EXTENSIONS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {
    "none": "0",
    "zero": "0",
    "one": "1",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_CONCISE = (
    "The input consists of a sequence of key frames from a video. Answer the question concisely first and followed by "
    "significant events, characters, or objects that appear throughout the frames. Question:"
)
WORD_OR_PHRASE = " Answer the question using a single word or phrase."
PRESETS: dict[str, Preset] = {
    "default": Preset(
        about="this project's: one frame per second, a word or phrase asked for",
        style="phrase",
        sampling="fps:1",
        max_new_tokens=64,
    ),
    "llamavid": Preset(
        about="LLaMA-VID: the bare question, one frame per second",
        style="bare",
        sampling="fps:1",
        max_new_tokens=1024,
        temperature=0.2,
    ),
    "videollamb": Preset(
        about="VideoLLaMB, model_videoqa.py",
        style="concise",
        sampling="uniform:8",
        max_new_tokens=1024,
        temperature=0.2,
        reply_prefix="\nAnswer: In the video,",
    ),
}


class Options(Config):
    split: Literal["test", "val"] = setting(
        "test", about="test, or val, which Video-ChatGPT scored; the two do not compare"
    )
    judge: bool = setting(False, about="whether a language model judges, as published; without, answers must be equal")


class OpenQA(Task):
    """Questions with a short answer."""

    kind = "open"
    Options: ClassVar[type[Config]] = Options
    presets: ClassVar[Mapping[str, Preset]] = PRESETS
    styles: ClassVar[Mapping[str, str]] = {
        "bare": "{question}",
        "phrase": "{question}\n" + WORD_OR_PHRASE.strip().strip(),
        "concise": f"{_CONCISE} {{question}}\n",
    }

    @property
    def needs_judge(self) -> bool:
        return bool(self.options.judge)

    def prompt(self, row: Row, times_s: Sequence[float] = (), count_tokens: Callable[[str], int] | None = None) -> str:
        return self.styles[self.preset.style].replace("{question}", row.question)

    def score(self, row: Row, reply: str) -> Judged:
        """1 where the reply is the answer, normalised; ``unparsed`` if nothing is left of it."""
        said = normalised(reply)
        if not said:
            return Judged("unparsed")
        assert row.answer is not None
        return Judged("scored", said, float(said == normalised(row.answer)))

    def judge_messages(self, row: Row, reply: str) -> Messages:
        assert row.answer is not None
        return qa_messages(row.question, row.answer, reply)

    def judged(self, row: Row, reply: str, judge_reply: str) -> Judged:
        """1 or 0 by the judge's yes or no; ``detail`` has its score of 0 to 5, also cut to an integer as published."""
        if not reply.strip():
            return Judged("unparsed")
        verdict = read_verdict(judge_reply)
        if verdict is None:
            return Judged("judge_failed", normalised(reply))
        detail = {"judge_score": verdict.score, "published_judge_score": int(verdict.score)}
        return Judged("scored", normalised(reply), float(verdict.match), detail)

    def settings(self) -> dict[str, Any]:
        scored = qa_messages("{question}", "{answer}", "{reply}") if self.needs_judge else "equal after normalisation"
        return {**super().settings(), "prompt": self.styles[self.preset.style], "scored_by": scored}


def normalised(text: str) -> str:
    """An answer as VQA compares them: lower case, no punctuation and articles, numbers to ten as digits."""
    words = re.sub(r"[^\w\s'-]|(?<!\w)['-]|['-](?!\w)", " ", text.lower().replace("’", "'")).split()
    return " ".join(_NUMBERS.get(word, word) for word in words if word not in _ARTICLES)


class ClipQA(OpenQA):
    """What MSVD-QA and MSRVTT-QA share: ``<split>_qa.json``, or ``test_q.json`` and ``test_a.json``."""

    folder: ClassVar[str]
    """Name of the data set's folder in LLaMA-VID's archive."""
    stem: ClassVar[str]
    """What file names have before the number."""
    extension: ClassVar[str]
    numbers: ClassVar[range]

    def load(self, data: Path) -> Iterator[Row]:
        split = self.options.split
        single = find_file(data, f"{split}_qa.json", f"{self.folder}/{split}_qa.json")
        if single is None and find_file(data, f"{split}_q.json"):
            questions = json_records(self.file(data, f"{split}_q.json"), data)
            answers = json_records(self.file(data, f"{split}_a.json"), data)
            for record in paired(questions, answers, "question_id"):
                yield self._row(data, record, record.text("question_id"), record.text("video_name"))
            return
        path = single or self.file(data, f"{split}_qa.json", f"{self.folder}/{split}_qa.json")
        for record in json_records(path, data):
            number = record.integer("video_id", self.numbers)
            yield self._row(data, record, str(record.integer("id", range(1 << 31))), number)

    def _row(self, data: Path, record: Record, name: str, video: int | str) -> Row:
        folders = [data / "video", data / "videos", data / self.folder / "videos", data / self.folder / "video", data]
        extensions = tuple(dict.fromkeys((self.extension, *EXTENSIONS)))
        path = find_media(folders, f"{self.stem}{video}" if isinstance(video, int) else video, extensions)
        if isinstance(video, int) and not Path(path).exists():
            plain = find_media(folders, str(video), extensions)
            path = plain if Path(plain).exists() else path
        question = record.text("question")
        return Row(
            id=name,
            question=question,
            clip=Clip(path),
            answer=record.text("answer"),
            categories={"question_word": question.split()[0].lower()},
            cluster=str(video),
            where=record.where,
        )


class MSVDQA(ClipQA):
    """MSVD-QA; ids are ``id``, as questions repeat within a video."""

    name = "msvd_qa"
    about = "open questions with one-word answers on 10-second clips (test 13,157)"
    source = "github.com/xudejing/video-question-answering (questions); clips of the MSVD corpus, research use only"
    layout = """\
<split>_qa.json          (or MSVD-QA/<split>_qa.json, or <split>_q.json and <split>_a.json)
video/vid<number>.avi    (or <number>.*, or by clip name, in video/, videos/ or MSVD-QA/videos/)"""
    folder, stem, extension, numbers = "MSVD-QA", "vid", ".avi", range(1, 1971)


class MSRVTTQA(ClipQA):
    """MSRVTT-QA; ids are ``id``."""

    name = "msrvtt_qa"
    about = "open questions with one-word answers on 15-second clips (test 72,821)"
    source = "github.com/xudejing/video-question-answering (questions); clips of MSR-VTT, research use only"
    layout = """\
<split>_qa.json            (or MSRVTT-QA/<split>_qa.json, or <split>_q.json and <split>_a.json)
video/video<number>.mp4    (or <number>.*, in video/, videos/ or MSRVTT-QA/videos/)"""
    folder, stem, extension, numbers = "MSRVTT-QA", "video", ".mp4", range(10000)
