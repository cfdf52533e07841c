"""The processor as users of the library call it: chats, prompts, batches, saving, Auto classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.processing_auto import AutoProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from longvu_model.config import IMAGE_TOKEN_INDEX, LongVUConfig
from longvu_model.image_processing import LongVUImageProcessor
from longvu_model.media_processor import register_processors
from longvu_model.processing import LongVUProcessor
from longvu_model.prompts import CHAT_TEMPLATES, drop_doubled_bos, render_prompt, tokenize_with_slots
from longvu_model.tiny_tokenizer import build_tiny_tokenizer
from longvu_model.video import decode_frames
from longvu_model.video_processing import LongVUVideoProcessor
from tests.processing.clips import moving_frames, write_video

SIZES = {"siglip_size": 14, "dino_size": 12}
FRAMES = moving_frames(4, 16, 24)
PICTURE = Image.fromarray(moving_frames(1, 20, 10)[0])
QUESTION = "What happens in the video?"


def build(style: str = "qwen", **options: Any) -> LongVUProcessor:
    return LongVUProcessor(
        LongVUImageProcessor(**SIZES),
        build_tiny_tokenizer(style),
        LongVUVideoProcessor(**SIZES, **options),
        chat_template=CHAT_TEMPLATES[style],
    )


def ask(*parts: Any) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", moving_frames(40, 32, 48), fps=10)


@pytest.mark.parametrize("style", ["qwen", "llama3"])
def test_chat_with_a_video_file(style: str, clip: Path) -> None:
    processor = build(style)
    inputs = processor.apply_chat_template(
        ask({"type": "video", "path": str(clip)}, QUESTION), tokenize=True, return_dict=True, add_generation_prompt=True
    )
    prompt = render_prompt([f"<image>\n{QUESTION}", None], style, processor.tokenizer)
    ids = drop_doubled_bos(tokenize_with_slots(prompt, processor.tokenizer), processor.tokenizer)
    assert inputs["input_ids"].tolist() == [ids]
    assert inputs["attention_mask"].tolist() == [[1] * len(ids)]
    frames = decode_frames(clip, "fps:1").frames
    pixels = processor.video_processor(frames)
    assert sorted(inputs) == sorted([*pixels, "input_ids", "attention_mask"])
    for name, expected in pixels.items():
        assert torch.equal(inputs[name], expected), name
    assert inputs["frame_counts"].tolist() == [4]
    assert inputs["image_sizes"].tolist() == [[32, 48]]


def test_several_media_of_both_kinds_stay_in_order(clip: Path) -> None:
    parts = [{"type": "image", "image": PICTURE}, {"type": "video", "video": FRAMES}, {"type": "video", "path": clip}]
    inputs = build().apply_chat_template(ask(*parts, "Which?"), tokenize=True, return_dict=True)
    assert inputs["frame_counts"].tolist() == [1, 4, 4]
    assert inputs["is_video"].tolist() == [False, True, True]
    assert inputs["image_sizes"].tolist() == [[20, 10], [16, 24], [32, 48]]
    assert int((inputs["input_ids"] == IMAGE_TOKEN_INDEX).sum()) == 3


def test_many_turns_with_text_contents() -> None:
    processor = build()
    messages = [
        *ask({"type": "video", "video": FRAMES}, QUESTION),
        {"role": "assistant", "content": "A square moves."},
        {"role": "user", "content": "Which colour has it?"},
    ]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    turns = [f"<image>\n{QUESTION}", "A square moves.", "Which colour has it?", None]
    assert processor.decode(inputs["input_ids"][0]) == render_prompt(turns, "qwen", processor.tokenizer)


def test_the_answer_is_opened_unless_it_is_there() -> None:
    processor = build()
    asked, answered = ask("Hi"), [*ask("Hi"), {"role": "assistant", "content": "Hello"}]
    header = "<|im_start|>assistant\n"
    assert processor.apply_chat_template(asked).endswith(header)
    assert not processor.apply_chat_template(asked, add_generation_prompt=False).endswith(header)
    assert processor.apply_chat_template(answered).endswith("Hello<|im_end|>\n")
    assert processor.apply_chat_template(answered, continue_final_message=True).endswith(header + "Hello")


def test_an_image_tag_in_a_question_is_text() -> None:
    processor = build()
    messages = ask({"type": "image", "image": PICTURE}, "Is this an <image> tag?")
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert int((inputs["input_ids"] == IMAGE_TOKEN_INDEX).sum()) == 1
    assert "<image>\nIs this an <image> tag?" in processor.decode(inputs["input_ids"][0])
    text_only = processor.apply_chat_template(ask("an <image> tag"), tokenize=True, return_dict=True)
    assert sorted(text_only) == ["attention_mask", "input_ids"]


def test_parts_without_sources_are_slots_for_features() -> None:
    inputs = build().apply_chat_template(ask({"type": "video"}, QUESTION), tokenize=True, return_dict=True)
    assert int((inputs["input_ids"] == IMAGE_TOKEN_INDEX).sum()) == 1
    assert "pixel_values_dino" not in inputs
    with pytest.raises(ValueError, match="1 of 2 media have a source: give all of them or none"):
        build().apply_chat_template(ask({"type": "video"}, {"type": "image", "image": PICTURE}), tokenize=True)


def test_parts_in_the_spelling_of_openai(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    PICTURE.save(path)
    ours = build().apply_chat_template(ask({"type": "image", "path": path}), tokenize=True, return_dict=True)
    for part in ({"type": "image_url", "image_url": {"url": f"file://{path}"}}, {"type": "image", "url": str(path)}):
        theirs = build().apply_chat_template(ask(part), tokenize=True, return_dict=True)
        assert torch.equal(theirs["pixel_values_dino"], ours["pixel_values_dino"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_side_that_is_set(side: str) -> None:
    processor = build()
    processor.tokenizer.padding_side = side
    long, short = ask({"type": "video", "video": FRAMES}, QUESTION), ask("Hi")
    batch = processor.apply_chat_template([long, short], tokenize=True, return_dict=True)
    rows = [processor.apply_chat_template(one, tokenize=True)[0] for one in (long, short)]
    real = [batch["input_ids"][i][batch["attention_mask"][i].bool()] for i in range(2)]
    assert all(torch.equal(ours, row) for ours, row in zip(real, rows, strict=True))
    pad = batch["input_ids"][1, 0 if side == "left" else -1]
    assert int(pad) == processor.tokenizer.pad_token_id
    assert batch["frame_counts"].tolist() == [4]


def test_a_ragged_batch_needs_padding() -> None:
    with pytest.raises(ValueError, match=r"prompts of \[1, 2\] ids do not make one tensor: use padding=True"):
        build()(text=["a", "a a"], padding=False)
    processor = build()
    processor.tokenizer.pad_token = None
    with pytest.raises(ValueError, match="need a pad token"):
        processor(text=["a", "a a"])
    assert build()(text=["a", "a a"], return_tensors=None)["input_ids"] == [
        [64],
        [64, *build()(text=" a")["input_ids"][0]],
    ]


def test_prompts_with_markers() -> None:
    processor = build()
    inputs = processor(text=f"<image>\n{QUESTION}", videos=FRAMES)
    assert inputs["input_ids"][0, 0] == IMAGE_TOKEN_INDEX
    assert torch.equal(processor(text=f"<video>\n{QUESTION}", videos=[FRAMES])["input_ids"], inputs["input_ids"])
    mixed = processor(text=["<video> and <image>", "<image>"], images=[PICTURE, PICTURE], videos=[FRAMES])
    assert mixed["is_video"].tolist() == [True, False, False]
    assert (mixed["input_ids"] == IMAGE_TOKEN_INDEX).sum(1).tolist() == [2, 1]
    assert sorted(processor(images=PICTURE, videos=FRAMES)) == sorted(processor.image_processor(PICTURE))


def test_sampling_options_reach_the_decoder(clip: Path) -> None:
    processor, messages = build(max_frames=3), ask({"type": "video", "path": clip}, QUESTION)
    options = [
        {},
        {"num_frames": 2},
        {"processor_kwargs": {"fps": 5.0, "max_frames": 9}},
        {"videos_kwargs": {"num_frames": 1}},
    ]
    counts = [
        processor.apply_chat_template(messages, tokenize=True, return_dict=True, **option)["frame_counts"].tolist()
        for option in options
    ]
    assert counts == [[3], [2], [9], [1]]
    inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_metadata=True)
    assert inputs["video_metadata"][0]["timestamps_s"] == pytest.approx([0, 1, 2])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(), "nothing to process"),
        (lambda p: p(text="Hi", images=PICTURE), "0 <image> in the text, 1 media given: write <image>"),
        (lambda p: p(text="<image>" * 2, videos=FRAMES), "2 <image> in the text, 1 media"),
        (lambda p: p(text="<image>" * 2, images=PICTURE, videos=FRAMES), "2 <image> in the text, 1 pictures"),
        (lambda p: p(text=3), "give a prompt or a list of prompts"),
        (lambda p: p(text="Hi", size=3), "unknown argument size: the processor knows add_special_tokens"),
        (lambda p: p(text="Hi", return_tensors="tf"), "only 'pt' is made"),
        (lambda p: p(text="Hi", padding="max_length"), "padding='max_length'"),
        (lambda p: p(text="Hi", padding_side="up"), "padding side 'up': use 'left' or 'right'"),
        (lambda p: p.apply_chat_template([]), "give a list of messages"),
        (lambda p: p.apply_chat_template("Hi"), "give a list of messages"),
        (lambda p: p.apply_chat_template([{"role": "user"}]), "message 0 is .* it needs 'role' and 'content'"),
        (lambda p: p.apply_chat_template([{"role": "user", "content": 3}]), "content of message 0 is 3"),
        (lambda p: p.apply_chat_template(ask("a", {"type": "audio"})), "part 1 of message 0 is {'type': 'audio'}"),
        (lambda p: p.apply_chat_template(ask("Hi"), temperature=1), "argument temperature: known to neither"),
        (lambda p: p.apply_chat_template(ask({"type": "image", "url": "ftp://a"}), tokenize=True), "only local files"),
    ],
)
def test_errors_say_what_to_do(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(build())


def test_a_processor_without_template_says_so() -> None:
    processor = build()
    processor.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        processor.apply_chat_template(ask("Hi"))
    assert processor.apply_chat_template(ask("Hi"), chat_template="{{ messages[0]['role'] }}") == "user"


def test_decoding_shows_slots() -> None:
    processor = build()
    ids = processor.tokenizer("a b<|im_end|>").input_ids
    row = [IMAGE_TOKEN_INDEX, *ids, IMAGE_TOKEN_INDEX]
    assert processor.decode(row) == "<image>a b<|im_end|><image>"
    assert processor.decode(torch.tensor(row), skip_special_tokens=True) == "<image>a b<image>"
    assert processor.batch_decode(torch.tensor([row, row])) == ["<image>a b<|im_end|><image>"] * 2
    assert processor.post_process_image_text_to_text(np.array([row])) == ["<image>a b<image>"]
    assert processor.decode(ids[0]) == "a"
    assert processor.decode([]) == ""


@pytest.mark.parametrize("style", ["qwen", "llama3"])
def test_saving_and_loading_keeps_everything(style: str, tmp_path: Path) -> None:
    register_processors(LongVUConfig, LongVUProcessor)
    processor = build(style, fps=2.0, max_frames=3)
    processor.image_processor.dino_mean = [0.1, 0.2, 0.3]
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["processor_class"] == "LongVUProcessor"
    messages = ask({"type": "image", "image": PICTURE}, {"type": "video", "video": FRAMES}, QUESTION)
    expected = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    for loaded in (LongVUProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is LongVUProcessor
        assert loaded.video_processor.sampling() == processor.video_processor.sampling()
        inputs = loaded.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is LongVUImageProcessor
    assert type(AutoVideoProcessor.from_pretrained(tmp_path)) is LongVUVideoProcessor


def test_image_and_video_processors_save_alone(tmp_path: Path) -> None:
    register_processors(LongVUConfig, LongVUProcessor)
    for processor, name in (
        (LongVUImageProcessor(**SIZES), "preprocessor_config.json"),
        (LongVUVideoProcessor(**SIZES, num_frames=5), "video_preprocessor_config.json"),
    ):
        folder = tmp_path / name
        processor.save_pretrained(folder)
        assert [path.name for path in folder.iterdir()] == [name]
        assert type(processor).from_pretrained(folder).to_dict() == processor.to_dict()
        assert type(processor).from_pretrained(folder, siglip_size=28).siglip_size == 28


def test_from_config_fits_the_model() -> None:
    config = LongVUConfig(
        text_config={"model_type": "llama"}, siglip_config={"image_size": 28}, dino_image_size=30, padding_side="left"
    )
    tokenizer = build_tiny_tokenizer("llama3")
    tokenizer.pad_token = None
    processor = LongVUProcessor.from_config(config, tokenizer)
    batch = processor(text=["<image>", "a <image> b"], images=[PICTURE, PICTURE])
    assert batch["pixel_values_siglip"].shape == (2, 3, 28, 28)
    assert batch["pixel_values_dino"].shape == (2, 3, 30, 30)
    assert batch["attention_mask"][0, 0] == 0
    assert processor.apply_chat_template(ask("Hi")).startswith("<|begin_of_text|><|start_header_id|>system")
    assert tokenizer.pad_token is not None


def test_parts_must_fit_each_other() -> None:
    tokenizer = build_tiny_tokenizer("qwen")
    with pytest.raises(TypeError, match="video_processor is a LongVUImageProcessor: a LongVUVideoProcessor is needed"):
        LongVUProcessor(LongVUImageProcessor(**SIZES), tokenizer, LongVUImageProcessor(**SIZES))
    with pytest.raises(ValueError, match="pictures of 14 pixels, videos of 384"):
        LongVUProcessor(LongVUImageProcessor(siglip_size=14), tokenizer, LongVUVideoProcessor())


def test_inputs_follow_the_models_dtype() -> None:
    inputs = build()(text="<image>", images=PICTURE).to(dtype=torch.bfloat16)
    assert inputs["pixel_values_dino"].dtype == torch.bfloat16
    assert inputs["input_ids"].dtype == inputs["image_sizes"].dtype == torch.int64
    assert set(inputs) == set(build().model_input_names)
