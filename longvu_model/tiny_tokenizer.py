"""A small byte-level tokenizer for the tiny presets, made on the spot: no download, any text round-trips.

The 256 bytes come first, ordered as in Qwen2's vocabulary, so the newline keeps id 198, a constant of the published
labels. Padding ids lie inside the vocabulary, unlike the official 151643 and 128002.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from longvu_model import vicuna
from longvu_model.prompts import CHAT_TEMPLATES, check_style

# Padding, BOS where the style has one, end of turn, then the other markers.
_SPECIAL_TOKENS = {
    "qwen": ("<|endoftext|>", None, "<|im_end|>", "<|im_start|>"),
    "llama3": (
        "<|reserved_special_token_0|>",
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
    ),
    "vicuna_v1": ("<unk>", "<s>", "</s>"),
}

# Words of up to one leading sign, single digits, punctuation, line breaks: the rule of both published tokenizers.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Frequent enough to become single tokens first: the published llama3 labels rely on a header of four tokens.
_TURN_WORDS = ("system", "user", "assistant", "\n\n")

CORPUS = """\
You are a helpful assistant.
What is happening in the video? What happens at the beginning, in the middle and at the end of the video?
The person opens the door and leaves the room. A man and a woman are walking along the street.
How many people are visible? Three people are visible. How many times does the ball bounce? It bounces twice.
What colour is the square that appears briefly? The square is red. The circle is green. The triangle is blue.
Which colour is shown in the short scene: red, green, blue, yellow, orange, purple, white or black?
Where does the small shape appear? It appears in the top left corner. It moves to the bottom right corner.
When does the shape appear? It appears after the second scene, before the last one. Is there a cat in the picture? Yes.
Does the background change? No, the background changes slowly. Which of these comes first, the dog or the car?
Question: What is the colour of the object?
Options:
(A) red
(B) green
(C) blue
(D) yellow
(E) none of the above
Respond with only the letter (A, B, C or D) of the correct option.
Answer with the option's letter from the given choices directly and only give the best option.
This video's subtitles are listed below:
Describe the image in detail. Describe this scene in one sentence. What are they doing? They are cooking in the kitchen.
"""


def build_tiny_tokenizer(template: str, vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens and the chat template of a prompt style.

    Args:
        template: "qwen", "llama3" or "vicuna_v1".
        vocab_size: upper limit on ids, special tokens included; the corpus fills about 640.

    Returns:
        The same tokenizer for the same arguments, in every process.

    Raises:
        ValueError: unknown style, or no room for the 256 bytes and the special tokens.
    """
    if template != "vicuna_v1":
        check_style(template)
    pad, bos, eos, *others = _SPECIAL_TOKENS[template]
    special = [token for token in (pad, bos, eos, *others) if token is not None]
    if vocab_size < 256 + len(special):
        raise ValueError(
            f"vocab_size={vocab_size}: at least {256 + len(special)}, 256 bytes and {len(special)} markers"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORPUS.splitlines(keepends=True), *_TURN_WORDS * 100], trainer)
    tokenizer.add_special_tokens(special)
    if bos is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        additional_special_tokens=others,
        clean_up_tokenization_spaces=False,
        chat_template=vicuna.chat_template(template) if template == "vicuna_v1" else CHAT_TEMPLATES[template],
    )
