"""Checkpoints of this project in lmms-eval: ``python -m lmms_eval --model longvu_ray --model_args pretrained=FOLDER``.

Imported by lmms-eval through the entry point ``longvu_ray`` of the group ``lmms_eval.models``; needs that package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lmms_eval.api.model import lmms  # type: ignore[import-not-found]

from pipelines.engine import SamplingParams
from pipelines.evaluate.media_chat import MediaChat, Turn

MODEL_ID = "longvu_ray"
_DEFAULT_MAX_TOKENS = 128


def manifest() -> Any:
    """What the entry point gives to lmms-eval's registry."""
    from lmms_eval.models.registry_v2 import ModelManifest  # type: ignore[import-not-found]

    return ModelManifest(model_id=MODEL_ID, simple_class_path=f"{__name__}.LongVURay", aliases=("longvu-ray",))


class LongVURay(lmms):  # type: ignore[misc]
    """A checkpoint of any family behind lmms-eval's interface for simple models.

    Args:
        pretrained: folder of the checkpoint.
        system_prompt: text of the system's turn.
        batch_size: conversations answered at the same time.
        settings: see :class:`pipelines.evaluate.media_chat.MediaChat`; numbers may come as texts.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int | str = 8,
        system_prompt: str = "",
        fps: float | str | None = None,
        num_frames: int | str | None = None,
        max_frames: int | str | None = None,
        **overrides: Any,
    ) -> None:
        super().__init__()
        overrides.pop("max_batch_size", None)
        self._system_prompt = system_prompt
        self.chat = MediaChat(
            pretrained,
            device,
            dtype,
            fps=None if fps is None else float(fps),
            num_frames=None if num_frames is None else int(num_frames),
            max_frames=None if max_frames is None else int(max_frames),
            slots=int(batch_size),
            overrides=overrides,
        )

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answer requests of (context, generation arguments, doc_to_visual, doc id, task, split)."""
        asked = [request.args for request in requests]
        conversations = [self._turns(text, *where) for text, _, *where in asked]
        replies = self.chat.replies(conversations, [sampling_params(arguments) for _, arguments, *_ in asked])
        for (text, arguments, *_), reply in zip(asked, replies, strict=True):
            self.cache_hook.add_partial("generate_until", (text, arguments), reply)
        return replies

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Weigh requests of (context, continuation or doc_to_target, doc_to_visual, doc id, task, split)."""
        weighed = []
        for text, target, visual, doc_id, task, split in (request.args for request in requests):
            continuation = target if isinstance(target, str) else target(self.task_dict[task][split][doc_id])
            weighed.append(self.chat.likelihood(self._turns(text, visual, doc_id, task, split), continuation))
        return weighed

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError(f"{MODEL_ID} answers single questions; choose a task of one round")

    def _turns(self, text: str, visual: Callable[[Any], Any], doc_id: int, task: str, split: str) -> list[Turn]:
        shown = visual(self.task_dict[task][split][doc_id]) or []
        media = [self.chat.medium(source) for source in _flat(shown)]
        turns: list[Turn] = [("system", [self._system_prompt])] if self._system_prompt else []
        return [*turns, ("user", [*media, text.replace("<image>", "").replace("<video>", "").strip()])]


def sampling_params(arguments: Mapping[str, Any]) -> SamplingParams:
    """lmms-eval's generation arguments in the engine's terms."""
    until = arguments.get("until") or ()
    sampled = bool(arguments.get("do_sample", True)) and float(arguments.get("temperature") or 0) > 0
    return SamplingParams(
        max_tokens=int(arguments.get("max_new_tokens") or _DEFAULT_MAX_TOKENS),
        temperature=float(arguments["temperature"]) if sampled else 0.0,
        top_p=float(arguments.get("top_p") or 1.0) if sampled else 1.0,
        stop=tuple(text for text in ([until] if isinstance(until, str) else until) if text),
    )


def _flat(shown: Any) -> Iterable[Any]:
    if isinstance(shown, list | tuple):
        for part in shown:
            yield from _flat(part)
    else:
        yield shown
