"""Checkpoints of this project in the manner of VLMEvalKit: a model with ``generate_inner(message, dataset)``.

VLMEvalKit keeps its models in a table of its own; add there

    supported_VLM["longvu-ray"] = partial(VLMEvalModel, model_path="checkpoints/longvu")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pipelines.engine import SamplingParams
from pipelines.errors import UserError
from pipelines.evaluate.media_chat import MediaChat, Medium


class VLMEvalModel:
    """A checkpoint of any family behind VLMEvalKit's interface.

    Args:
        model_path: folder of the checkpoint.
        max_new_tokens, temperature, top_p: how it answers.
        settings: see :class:`pipelines.evaluate.media_chat.MediaChat`.
    """

    INSTALL_REQ: ClassVar[bool] = False
    INTERLEAVE: ClassVar[bool] = True
    VIDEO_LLM: ClassVar[bool] = True
    allowed_types: ClassVar[tuple[str, ...]] = ("text", "image", "video")

    def __init__(
        self,
        model_path: str,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        **settings: Any,
    ) -> None:
        self._sampling = SamplingParams(max_new_tokens, temperature, top_p)
        self.chat = MediaChat(model_path, **settings)

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """The data sets' own prompts are used."""
        return False

    def set_dump_image(self, dump_image: Any) -> None:
        """VLMEvalKit hands over how it writes pictures to files; only prompts of a model's own need it."""
        self.dump_image = dump_image

    def generate(self, message: str | Sequence[Any], dataset: str | None = None) -> str:
        """Answer a message; texts alone are told from files as VLMEvalKit does: a dict says what it is."""
        parts = [message] if isinstance(message, str) else message
        return self.generate_inner([{"type": "text", "value": p} if isinstance(p, str) else p for p in parts], dataset)

    def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
        """Answer texts, images and videos in order.

        Args:
            message: each {"type": "text", "image" or "video", "value": a text or a path}.
            dataset: name of the data set; nothing depends on it.

        Raises:
            UserError: a part of another type, or a file that is not there.
        """
        parts = [self._part(part) for part in message]
        return self.chat.replies([[("user", parts)]], [self._sampling])[0]

    def _part(self, part: Mapping[str, Any]) -> str | Medium:
        kind, value = part.get("type"), part.get("value")
        if kind == "text":
            return str(value)
        if kind == "image" or kind == "video":
            return self.chat.medium(value, kind)
        raise UserError(f"message part of type {kind!r}; {', '.join(self.allowed_types)} are allowed")
