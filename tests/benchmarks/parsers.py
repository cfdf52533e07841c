"""How often do parsers read what a reply says? The strict one beside those of published evaluation code.

    python -m tests.benchmarks.parsers                # tests/pipelines/evaluate/replies.jsonl
    python -m tests.benchmarks.parsers FILE.jsonl ...

The published ones are written anew here from their documented behaviour, without their text processing of file formats:

    longvu          the word Answer removed, then the first capital within the range, wherever it stands
    video-mme       a few announcing phrases removed, then the first of the letters
    lmms mcq        mcq_extract of lmms-eval: letters in ten formats, the best format and then the last place wins
    lmms mvbench    "X. text" or the first letter on its own, in either case, after punctuation is removed

Columns, of the lines of the files: mis-scored; of those the guessed ones, where a label was read though the reply
commits to none; wrong, another label than the reply's; and missed, where the reply has a label and none was read.

Then the mis-scored of each batch: lines with a field ``batch`` were written from the rules alone, before the parser
had seen any of them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.evaluate.parsing import parse_choice
from pipelines.evaluate.parsing.__main__ import Reading, read_readings

REPLIES = Path(__file__).parents[1] / "pipelines" / "evaluate" / "replies.jsonl"
_ANNOUNCED = "the answer|answer|the correct answer|correct answer|the best answer|best answer|the correct option|\
correct option|the best option|best option|the choice|choice|the correct choice|correct choice|my answer|my choice"
_OTHERS = "i choose|i select|i pick|옵션|정답은|답은|답:|答案是|答案为|选|答えは"
_PHRASES = (*(f"{noun} is" for noun in _ANNOUNCED.split("|")), *_OTHERS.split("|"))
_VIDEO_MME_PREFIXES = (
    *(f"The {noun} is" for noun in ("best answer", "correct answer", "answer", "best option", "correct option")),
    *("The answer", "Best answer:", "Best option:"),
)

Parser = Callable[[str, Sequence[str]], str | None]


def letters(options: Sequence[str]) -> str:
    """The labels of the options, as one string."""
    return "".join(chr(ord("A") + index) for index in range(len(options)))


def longvu(reply: str, options: Sequence[str]) -> str | None:
    """The first capital in range; the published code raises where there is none."""
    match = re.search(f"[{letters(options)}]", reply.replace("Answer", ""))
    return match[0] if match else None


def video_mme(reply: str, options: Sequence[str]) -> str | None:
    """The first of the letters behind the announcements; a long reply without any is not read."""
    text = reply.strip()
    for prefix in _VIDEO_MME_PREFIXES:
        text = text.replace(prefix, "")
    match = re.search(f"[{letters(options)}]", text)
    return match[0] if match else None


def lmms_mcq(reply: str, options: Sequence[str]) -> str | None:
    """Candidates as (rank of their format, place, letter); the highest is taken."""
    text = reply.strip()
    for mark in ",.!?;:'\"":
        text = text.strip(mark)
    text = f" {text} "
    bare, lowered = text.strip(), text.lower()
    found: list[tuple[int, int, str]] = []
    for letter in letters(options):
        for rank, shape in (
            (6, f"({letter})"),
            (5, f"{letter}."),
            (4, f"{letter}:"),
            (3, f"{letter})"),
            (2, f"{letter} "),
        ):
            if shape in text:
                found.append((rank, text.rfind(shape), letter))
        for phrase in _PHRASES:
            place = lowered.find(phrase)
            if place >= 0 and (after := text.find(letter, place + len(phrase))) >= 0:
                found.append((7, after, letter))
        if bare.startswith(letter) and not bare[1:2].isalpha():
            found.append((10, 0, letter))
        if bare.endswith(letter) and not bare[-2:-1].isalpha():
            found.append((9, len(text) - 1, letter))
    found = found or [(0, text.rfind(letter), letter) for letter in letters(options) if letter in text]
    return max(found, key=lambda one: one[:2])[2] if found else None


def lmms_mvbench(reply: str, options: Sequence[str]) -> str | None:
    """``X. text``, or the first letter A to E that stands alone once punctuation is gone."""
    dotted = re.match(r"^([A-E])\.\s*(.+)$", reply.strip(), re.I)
    if dotted:
        return dotted[1].upper()
    text = re.sub(
        r"\.(?!\d)", "", re.sub(r'[;/\[\]"{}()=+\\_\-><@`,?!]', " ", reply.replace("\n", " ").replace("\t", " "))
    )
    alone = re.search(r"\b([A-E])\b", text, re.I)
    return alone[1].upper() if alone else None


PARSERS: dict[str, Parser] = {
    "longvu": longvu,
    "video-mme": video_mme,
    "lmms mcq": lmms_mcq,
    "lmms mvbench": lmms_mvbench,
    "strict (ours)": parse_choice,
}


def counts(parser: Parser, readings: Sequence[Reading]) -> tuple[int, int, int]:
    """Guessed, wrong and missed."""
    guessed = wrong = missed = 0
    for reading in readings:
        label = parser(reading.reply, reading.options)
        guessed += reading.answer is None and label is not None
        wrong += reading.answer is not None and label not in (None, reading.answer)
        missed += reading.answer is not None and label is None
    return guessed, wrong, missed


def batches(paths: Sequence[Path], readings: Sequence[Reading]) -> dict[str, list[Reading]]:
    """The readings of each batch, in the order of the files."""
    lines = [line for path in paths for line in Path(path).read_text("utf-8").split("\n") if line.strip()]
    found = defaultdict(list)
    for line, reading in zip(lines, readings, strict=True):
        found[json.loads(line).get("batch", "")].append(reading)
    return dict(found)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", default=[REPLIES])
    files = parser.parse_args(argv).files
    readings = [reading for path in files for reading in read_readings(path)]
    silent = sum(reading.answer is None for reading in readings)
    print(f"{len(readings)} replies, {silent} without a single choice; floor: 0 mis-scored by the strict parser")
    print(f"{'parser':<16}{'mis-scored':>12}{'share':>8}{'guessed':>9}{'wrong':>7}{'missed':>8}")
    for name, parse in PARSERS.items():
        guessed, wrong, missed = counts(parse, readings)
        total = guessed + wrong + missed
        print(f"{name:<16}{total:>12}{total / max(1, len(readings)):>8.1%}{guessed:>9}{wrong:>7}{missed:>8}")
    print(f"{'batch':<16}{'replies':>12}" + "".join(f"{name:>15}" for name in PARSERS))
    for batch, members in batches(files, readings).items():
        shares = [sum(counts(parse, members)) / len(members) for parse in PARSERS.values()]
        print(f"{batch or '–':<16}{len(members):>12}" + "".join(f"{share:>15.1%}" for share in shares))


if __name__ == "__main__":
    main()
