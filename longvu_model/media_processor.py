"""Messages or prompts, pictures and videos to model inputs: what the processors of all families share.

A family says what pixels its towers take (:meth:`MediaProcessor.media_inputs`), how media are written in a prompt
(``slots``, ``video_marker``), and may arrange a conversation before it is written.

Media are decoded by this package's own decoder, not by the library's; sources are local files or objects in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor
from transformers import AutoTokenizer, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from longvu_model.conversations import Source, read_conversation, slot_sources
from longvu_model.image_processing import check_call
from longvu_model.media import Medium
from longvu_model.padding import pad_rows
from longvu_model.prompts import IMAGE_MARKER, SLOTS, drop_doubled_bos, tokenize_with_slots

_TEXT_ARGUMENTS = {"padding", "padding_side", "add_special_tokens"}
_VIDEO_ARGUMENTS = {"sampling", "fps", "num_frames", "max_frames", "return_metadata"}
_CALL_ARGUMENTS = _TEXT_ARGUMENTS | _VIDEO_ARGUMENTS | {"text_kwargs", "images_kwargs", "videos_kwargs"}


class MediaProcessor(ProcessorMixin):
    """Tokenizer, image and video processor in one."""

    image_processor_type: ClassVar[type]
    video_processor_type: ClassVar[type]
    slots: ClassVar[Mapping[str, int]] = SLOTS
    """Markers in a prompt and the ids that they become."""
    video_marker: ClassVar[str] = IMAGE_MARKER
    image_processor: Any
    video_processor: Any
    tokenizer: Any

    def media_inputs(self, media: Sequence[Medium]) -> dict[str, Tensor]:
        """Model inputs of decoded media, in the order of their slots."""
        raise NotImplementedError

    def arranged(
        self, conversations: list[list[dict[str, Any]]], sources: list[list[Source]]
    ) -> tuple[list[list[dict[str, Any]]], list[list[Source]], dict[str, Any]]:
        """Conversations as they are to be written, the sources of each in order, and model inputs made of them.

        Args:
            conversations: messages without sources.
            sources: of each conversation, in the order of its parts.
        """
        return conversations, sources, {}

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs of prompts and their media.

        Each ``<image>`` in a prompt is the place of the next medium. Where both pictures and videos are given,
        ``<image>`` places pictures and ``<video>`` videos.

        Args:
            images: picture or (nested) list of pictures, see :func:`longvu_model.media.load_image`.
            text: prompt or list of prompts.
            videos: video or (nested) list, see :func:`longvu_model.video_processing.load_video`.
            return_tensors: "pt", or ``None`` for ids and masks as lists without padding.
            **kwargs: ``padding`` (default true: to the longest), ``padding_side``, ``add_special_tokens`` (default
                true); frame sampling by ``fps``, ``num_frames``, ``max_frames`` or ``sampling`` (a FrameSampling or
                its text); ``return_metadata`` for ``video_metadata``. The library's ``text_kwargs``,
                ``images_kwargs`` and ``videos_kwargs`` may hold them too.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 (B, T), and what :meth:`media_inputs` makes of media.

        Raises:
            ValueError: slots and media differ in number, or an argument is unknown or of the wrong kind.
            VideoError: a video cannot be decoded.
        """
        arguments = _arguments(kwargs)
        if text is None:
            if images is None and videos is None:
                raise ValueError("nothing to process: give text, images or videos")
            return self._inputs(None, slot_sources(None, images, videos)[1], return_tensors, arguments)
        prompts = [text] if isinstance(text, str) else text
        if not isinstance(prompts, list | tuple) or not prompts or not all(isinstance(one, str) for one in prompts):
            raise ValueError(f"text is {text!r:.80}: give a prompt or a list of prompts")
        prompts, sources = slot_sources(prompts, images, videos, self.video_marker)
        return self._inputs(prompts, sources, return_tensors, arguments)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = "pt",
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The prompt of a conversation, or with ``tokenize`` its model inputs.

        A message is ``{"role": ..., "content": ...}``; its content is a text, or a list of parts
        ``{"type": "text", "text": ...}``, ``{"type": "video", "path": ...}`` and ``{"type": "image", "path": ...}``.
        A medium's source may also stand under the name of its type or under ``url``. Parts without a source make slots
        only, for models that are given features instead of pixels. ``<image>`` in a text is ordinary text.

        Args:
            conversation: messages, or a list of such lists.
            chat_template: another template than the processor's.
            add_generation_prompt: open the assistant's turn; by default if the last message is not the assistant's.
            continue_final_message: leave the last message open, so that the model continues it.
            tokenize: make ids and pixels; otherwise the rendered text is returned.
            return_dict: with ``tokenize``, return all model inputs, not only ``input_ids``.
            return_tensors: as in :meth:`__call__`.
            processor_kwargs: arguments of :meth:`__call__`; they may also be given directly.
            **kwargs: those, and variables of the template.

        Returns:
            text (or a list of texts), ``input_ids``, or a :class:`BatchFeature` as from :meth:`__call__`.

        Raises:
            ValueError: a message or part that cannot be read, an argument that neither processor nor template knows.
            VideoError: a video cannot be decoded.
        """
        template = chat_template or self.chat_template
        if template is None:
            raise ValueError(
                "this processor has no chat template: give one, for example prompts.CHAT_TEMPLATES['qwen']"
            )
        batched, conversations = _batch(conversation)
        known = {key: value for key, value in kwargs.items() if key in _CALL_ARGUMENTS}
        variables = {key: value for key, value in kwargs.items() if key not in known and value is not None}
        unused = sorted(key for key in variables if key not in template and key not in ("tools", "documents"))
        if unused:
            raise ValueError(f"argument {', '.join(unused)}: known to neither the processor nor the chat template")
        read = [read_conversation(messages, escape=tokenize) for messages in conversations]
        arranged, media, extra = self.arranged([plain for plain, _ in read], [sources for _, sources in read])
        prompts = []
        for plain in arranged:
            is_open = plain[-1]["role"] != "assistant" and not continue_final_message
            rendered = self.tokenizer.apply_chat_template(
                plain,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=is_open if add_generation_prompt is None else add_generation_prompt,
                continue_final_message=continue_final_message,
                **variables,
            )
            prompts.append(str(rendered))
        if not tokenize:
            return prompts if batched else prompts[0]
        sources = [source for part in media for source in part]
        inputs = self._inputs(prompts, sources, return_tensors, _arguments({**(processor_kwargs or {}), **known}))
        inputs.update(extra)
        return inputs if return_dict else inputs["input_ids"]

    def _inputs(
        self,
        prompts: Sequence[str] | None,
        sources: Sequence[Source],
        return_tensors: str | None,
        arguments: Mapping[str, Any],
    ) -> BatchFeature:
        check_call(return_tensors, {})
        inputs: dict[str, Any] = {}
        if prompts is not None:
            inputs |= self._text_inputs(prompts, return_tensors, arguments)
        given = [source for source in sources if source.value is not None]
        if given and len(given) < len(sources):
            raise ValueError(f"{len(given)} of {len(sources)} media have a source: give all of them or none")
        sampling = self.video_processor.sampling(
            **{key: arguments.get(key) for key in ("sampling", "fps", "num_frames", "max_frames")}
        )
        media = [
            self.video_processor.load(source.value, sampling)
            if source.is_video
            else self.image_processor.load(source.value)
            for source in given
        ]
        if media:
            inputs |= self.media_inputs(media)
        if arguments.get("return_metadata"):
            inputs["video_metadata"] = [medium.metadata for medium in media if medium.is_video]
        return BatchFeature(inputs)

    def _text_inputs(
        self, prompts: Sequence[str], return_tensors: str | None, arguments: Mapping[str, Any]
    ) -> dict[str, Any]:
        special = arguments.get("add_special_tokens", True)
        rows = [
            tokenize_with_slots(prompt, self.tokenizer, add_special_tokens=special, slots=self.slots)
            for prompt in prompts
        ]
        rows = [drop_doubled_bos(row, self.tokenizer) for row in rows]
        if return_tensors is None:
            return {"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]}
        padding, side = arguments.get("padding", True), arguments.get("padding_side", self.tokenizer.padding_side)
        if padding not in (True, "longest", False, "do_not_pad"):
            raise ValueError(f"padding={padding!r}: use True (to the longest) or False")
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1 and padding in (False, "do_not_pad"):
            raise ValueError(f"prompts of {lengths} ids do not make one tensor: use padding=True")
        if len(lengths) > 1 and self.tokenizer.pad_token_id is None:
            raise ValueError("prompts of different length need a pad token: set processor.tokenizer.pad_token")
        ids_BT = pad_rows(rows, self.tokenizer.pad_token_id or 0, side)
        return {"input_ids": ids_BT, "attention_mask": pad_rows([[1] * len(row) for row in rows], 0, side)}

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> Any:
        """Text of ids, a slot as its marker; a list of texts for a batch of ids."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, Sequence) and ids and (isinstance(ids[0], Sequence) or hasattr(ids[0], "tolist")):
            return [self.decode(row, skip_special_tokens, **kwargs) for row in ids]
        markers = {slot: marker for marker, slot in self.slots.items()}
        options = {"skip_special_tokens": skip_special_tokens, **kwargs}
        text, piece = "", list[int]()
        for token in [ids] if isinstance(ids, int) else ids:
            if token in markers:
                text += self.tokenizer.decode(piece, **options) + markers[token]
                piece = []
            else:
                piece.append(int(token))
        return text + self.tokenizer.decode(piece, **options)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:
        """Text of each row of ids, slots as their markers."""
        return [self.decode(row, skip_special_tokens, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """Text of each generated row; what the library's pipelines call."""
        return self.batch_decode(generated_outputs, skip_special_tokens, **kwargs)

    # The library resolves classes by name through its Auto mappings, whose video part is a dummy where torchvision is
    # absent (transformers 5.17 to 5.23); the parts of this processor are known.

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> type:
        """The class that a part must have; ``TypeError`` if it has another."""
        expected = {
            "image_processor": self.image_processor_type,
            "tokenizer": PreTrainedTokenizerBase,
            "video_processor": self.video_processor_type,
        }[argument_name]
        if not isinstance(argument, expected):
            raise TypeError(f"{argument_name} is a {type(argument).__name__}: a {expected.__name__} is needed")
        return expected

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, processor_dict: Any = None, **kwargs: Any
    ) -> list[Any]:
        parts: tuple[Any, ...] = (cls.image_processor_type, AutoTokenizer, cls.video_processor_type)
        return [part.from_pretrained(pretrained_model_name_or_path, **kwargs) for part in parts]


def _batch(conversation: Any) -> tuple[bool, list[Any]]:
    """Whether several conversations are given, and the list of them."""
    conversation = getattr(conversation, "messages", conversation)
    if not isinstance(conversation, list | tuple) or not conversation:
        raise ValueError(f"conversation {conversation!r:.80}: give a list of messages, or a list of such lists")
    if isinstance(conversation[0], Mapping):
        return False, [conversation]
    return True, [getattr(messages, "messages", messages) for messages in conversation]


def _arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Call arguments with the library's nested dictionaries unfolded."""
    arguments: dict[str, Any] = {}
    for key, value in kwargs.items():
        if key in ("text_kwargs", "images_kwargs", "videos_kwargs"):
            arguments |= value or {}
        elif value is not None:
            arguments[key] = value
    unknown = sorted(set(arguments) - _TEXT_ARGUMENTS - _VIDEO_ARGUMENTS)
    if unknown:
        known = ", ".join(sorted(_TEXT_ARGUMENTS | _VIDEO_ARGUMENTS))
        raise ValueError(f"unknown argument {', '.join(unknown)}: the processor knows {known}")
    return arguments


def register_processors(config_class: type, processor: type[MediaProcessor]) -> None:
    """Make AutoProcessor, AutoImageProcessor and AutoVideoProcessor know a family's classes; harmless when repeated."""
    # Without torchvision the names in the top module are dummies that raise (AutoImageProcessor up to 5.17,
    # AutoVideoProcessor still in 5.23); the classes themselves work.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.models.auto.processing_auto import AutoProcessor
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor

    AutoProcessor.register(config_class, processor, exist_ok=True)
    # One class for both back ends: Pillow's filter is part of the behaviour.
    pictures = processor.image_processor_type
    classes: dict[str, type] = {"pil": pictures, "torchvision": pictures}
    AutoImageProcessor.register(config_class, image_processor_classes=classes, exist_ok=True)
    AutoVideoProcessor.register(config_class, processor.video_processor_type, exist_ok=True)
