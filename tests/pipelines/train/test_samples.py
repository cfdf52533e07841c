"""Rows as they are found, and what becomes of each irregularity."""

from __future__ import annotations

from typing import Any

import pytest

from longvu_model.prompts import unescape_markers
from pipelines.errors import UserError
from pipelines.train.samples import Unusable, check_keys, read_sample
from tests.pipelines.train.conftest import row


def turns(*values: str, first: str = "human") -> list[dict[str, str]]:
    speakers = ("human", "gpt") if first == "human" else ("gpt", "human")
    return [{"from": speakers[place % 2], "value": value} for place, value in enumerate(values)]


def texts(record: dict[str, Any]) -> list[str]:
    return [turn.text for turn in read_sample(record, "file:0").turns]


@pytest.mark.parametrize(
    ("question", "repairs"),
    [
        ("<image>\nWhat?", ()),
        ("<video>\nWhat?", ()),
        ("What?\n<image>", ("marker moved",)),
        ("<image>\n<image>\nWhat?", ("marker moved",)),
        ("What?", ("marker added",)),
    ],
)
@pytest.mark.parametrize("key", ["image", "video"])
def test_the_marker_goes_to_the_front_of_the_first_question(key: str, question: str, repairs: tuple[str, ...]) -> None:
    sample = read_sample({**row(question, "That."), key: "a/b.mp4"}, "file:7")
    assert [turn.text for turn in sample.turns] == ["<image>\nWhat?", "That."]
    assert sample.repairs == repairs
    assert (sample.modality, sample.media[0].path, sample.sample_id) == (key, "a/b.mp4", "file:7")


def test_markers_of_later_turns_are_removed() -> None:
    record = {"video": "v.mp4", "conversations": turns("<image>\nOne?", "1", "Two?\n<image>", "2")}
    assert texts(record) == ["<image>\nOne?", "1", "Two?", "2"]
    assert read_sample(record, "file:0").repairs == ("marker moved",)


def test_an_answer_keeps_its_literal_marker() -> None:
    record = row("<image>\nWhich tag?", "It says <image> here.", image="a.png")
    answer = texts(record)[1]
    assert "<image>" not in answer
    assert unescape_markers(answer) == "It says <image> here."


def test_several_images_keep_their_order_and_places() -> None:
    sample = read_sample(row("<image> and <image>: same?", "No.", image=["a.png", "b.png"]), "file:0")
    assert [medium.path for medium in sample.media] == ["a.png", "b.png"]
    assert sample.turns[0].text == "<image> and <image>: same?"
    with pytest.raises(Unusable, match="has 1 <image> for 2 media"):
        read_sample(row("<image>: same?", "No.", image=["a.png", "b.png"]), "file:0")


@pytest.mark.parametrize("value", ["", None, "None", "none", "nan", float("nan"), []])
def test_an_empty_medium_is_none(value: Any) -> None:
    sample = read_sample(row("<image>\nWhat?", "That.", image=value), "file:0")
    assert (sample.modality, sample.media, sample.turns[0].text) == ("text", (), "What?")
    assert sample.repairs == ("empty medium ignored", "marker without medium stripped")


def test_an_empty_image_does_not_hide_a_video() -> None:
    assert read_sample(row("<image>\nWhat?", "That.", image="", video="v.mp4"), "file:0").modality == "video"


def test_text_keeps_markers_in_answers() -> None:
    sample = read_sample(row("Which tag?", "<image>, I think."), "file:0")
    assert sample.turns[1].text == "<image>, I think."
    assert sample.repairs == ()


def test_leading_answers_are_dropped_and_a_system_turn_stays() -> None:
    record = {"conversations": turns("Hi.", "What?", "That.", first="gpt")}
    sample = read_sample(record, "file:0")
    assert [turn.role for turn in sample.turns] == ["user", "assistant"]
    assert sample.repairs == ("leading answer dropped",)
    system = [{"from": "system", "value": "Be brief."}]
    roles = [turn.role for turn in read_sample({"conversations": system + turns("What?", "That.")}, "f:0").turns]
    assert roles == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        ({"conversations": turns("What?", "That.") + turns("a", "b", first="gpt")}, "bad turns"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "bad turns"),
        ({"conversations": "text"}, "bad turns"),
        ({"conversations": turns("What?")}, "no answer"),
        ({"conversations": []}, "no answer"),
        (row("<image>\nWhat?", "That.", image="a.png", video="v.mp4"), "image and video"),
        (row("<image>\nWhat?", "That.", image=7), "bad path"),
        (row("<image>\nWhat?", "That.", image=["a.png", None]), "bad path"),
        (row("<image>\nWhat?", "That.", video="v.mp4", start=3.0), "bad clip"),
        (row("<image>\nWhat?", "That.", video="v.mp4", start=3.0, end=3.0), "bad clip"),
        (row("<image>\nWhat?", "That.", video="v.mp4", start=-1, end=3.0), "bad clip"),
    ],
)
def test_a_contradiction_is_unusable_by_name(record: dict[str, Any], cause: str) -> None:
    with pytest.raises(Unusable) as caught:
        read_sample(record, "file:0")
    assert caught.value.cause == cause


def test_a_clip_is_read() -> None:
    medium = read_sample(row("<video>\nWhat?", "That.", video="v.mp4", start=3, end=9.5), "file:0").media[0]
    assert (medium.start_s, medium.end_s) == (3.0, 9.5)


def test_unknown_keys_stop_the_run() -> None:
    check_keys(row("a", "b", video="v", model="", start=0, end=1), "rows.json", 3)
    with pytest.raises(UserError, match=r"rows.json: row 3 has 'QA', 'x' beside the keys .*ignore_keys"):
        check_keys(row("a", "b", QA=[], x=1), "rows.json", 3)
    check_keys(row("a", "b", x=1), "rows.json", 3, ignore=("x",))
    with pytest.raises(UserError, match=r"rows.json: row 4 has no 'conversations', only 'id', 'video'"):
        check_keys({"id": 1, "video": "v"}, "rows.json", 4)
