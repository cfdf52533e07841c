"""A conversation about a video with an OpenAI-compatible endpoint; what the chat page and ``longvu chat --url`` share.

The official client does the talking. What is added: uploads, what the model saw of a medium (the reply's ``longvu``
key), and every failure as one line that says what to do.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import openai

from pipelines.errors import UserError

Kind = Literal["video", "image"]


class ChatError(UserError):
    """The endpoint did not answer; the message is its own, or says why it could not be asked."""


@dataclass(frozen=True)
class Medium:
    """A video or image that the endpoint knows, and how requests name it."""

    url: str
    kind: Kind

    @property
    def part(self) -> dict[str, Any]:
        """Its part of a message."""
        return {"type": f"{self.kind}_url", f"{self.kind}_url": {"url": self.url}}


@dataclass(frozen=True)
class Seen:
    """What an answer was based on.

    Attributes:
        kept_times_s: for each medium, times in seconds of the frames that the model saw.
        num_sampled: for each medium, frames sampled before near-duplicates were left out.
        damage: for each medium, why only a good prefix was seen; None for a whole one.
        visual_tokens: tokens that the media cost.
        regime: how they were shown: full, mixed or low.
        cached: whether nothing was decoded or encoded for this answer.
        seconds: time per step.
        cut: whether the answer was longer than allowed.
    """

    kept_times_s: list[list[float]] = field(default_factory=list)
    num_sampled: list[int] = field(default_factory=list)
    damage: list[str | None] = field(default_factory=list)
    visual_tokens: int = 0
    regime: str = ""
    cached: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    cut: bool = False

    def __str__(self) -> str:
        facts = []
        if self.num_sampled:
            kept = sum(len(times_s) for times_s in self.kept_times_s)
            facts.append(f"{kept} of {sum(self.num_sampled)} frames kept")
        if self.visual_tokens:
            facts.append(f"{self.visual_tokens:,} visual tokens")
        if self.regime:
            facts.append(f"{self.regime} regime")
        if "first_token" in self.seconds:
            facts.append(f"first word after {self.seconds['first_token']:.1f} s")
        if self.cached:
            facts.append("video seen before")
        return " · ".join(facts)


class Conversation:
    """Questions and answers about media, in the form that requests take."""

    def __init__(self, *media: Mapping[str, Any]) -> None:
        """
        Args:
            media: parts of the first message, as :attr:`Medium.part`.
        """
        self._media = media
        self.messages: list[dict[str, Any]] = []

    def asked(self, question: str) -> list[dict[str, Any]]:
        """The messages of a request for the next answer; the conversation itself stays as it is."""
        text = {"type": "text", "text": question}
        content = [text] if self.messages else [*self._media, text]
        return [*self.messages, {"role": "user", "content": content}]

    def answered(self, question: str, answer: str) -> None:
        """Take an answer into the conversation."""
        self.messages = [*self.asked(question), {"role": "assistant", "content": answer}]


class ChatClient:
    """Speaks to one endpoint.

    Args:
        base_url: of the endpoint, with ``/v1``.
        api_key: sent as bearer token.
        authorization: a whole Authorization header instead of a key.
        trust_env: whether proxies of the environment are used.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, authorization: str | None = None, trust_env: bool = True
    ) -> None:
        self._base_url = base_url
        self._client = openai.OpenAI(
            base_url=base_url,
            api_key=api_key or "none",
            default_headers={"Authorization": authorization} if authorization else None,
            http_client=openai.DefaultHttpxClient(trust_env=trust_env),
        )

    def close(self) -> None:
        self._client.close()

    def models(self) -> list[str]:
        """Names of the models that can be asked.

        Raises:
            ChatError: the endpoint cannot be reached or refuses.
        """
        with self._errors():
            return [model.id for model in self._client.models.list()]

    def upload(self, path: Path) -> Medium:
        """Send a file to the endpoint's uploads.

        Raises:
            ChatError: it is no video or picture, too large, or the endpoint cannot be reached.
            OSError: it cannot be read.
        """
        with self._errors(), path.open("rb") as file:
            reply = self._client.post(
                "/videos",
                cast_to=object,
                body={},
                files=[("file", (path.name, file, "application/octet-stream"))],
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
        assert isinstance(reply, dict), reply
        return Medium(f"video:{reply['id']}", "image" if reply.get("kind") == "image" else "video")

    def answer(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int | None = None,
        fps: float | None = None,
    ) -> Generator[str | Seen, None, None]:
        """The words of an answer as they come, then what it was based on. Closing the iterator cancels the answer.

        Args:
            max_tokens: limit on the answer; the endpoint's by default.
            fps: frames sampled per second of video; the model's own way by default.

        Raises:
            ChatError: the request was refused, or the answer broke off.
        """
        request: dict[str, Any] = {"model": model, "messages": messages, "stream": True}
        request["stream_options"] = {"include_usage": True}
        if max_tokens is not None:
            request["max_tokens"] = max_tokens
        if fps is not None:
            request["extra_body"] = {"media_io_kwargs": {"video": {"fps": fps}}}
        extra: dict[str, Any] = {}
        finish = None
        with self._errors():
            stream: Any = self._client.chat.completions.create(**request)
            with stream:
                for chunk in stream:
                    extra = (chunk.model_extra or {}).get("longvu") or extra
                    for choice in chunk.choices:
                        finish = choice.finish_reason or finish
                        if choice.delta.content:
                            yield choice.delta.content
        if finish is None:
            raise ChatError(f"{self._base_url}: the answer broke off; ask again")
        yield _seen(extra, finish == "length")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except openai.APIStatusError as error:
            body = error.body if isinstance(error.body, dict) else {}
            said = str(body.get("message") or f"{self._base_url} answered {error.status_code}; check the address")
            raise ChatError(said) from None
        except openai.APITimeoutError:
            raise ChatError(f"{self._base_url} did not answer in time; ask again") from None
        except openai.APIConnectionError as error:
            reason = type(error.__cause__ or error).__name__
            raise ChatError(f"{self._base_url}: the connection failed ({reason}); check that it runs") from None
        except openai.APIError as error:  # in the middle of a stream
            raise ChatError(error.message) from None


def _seen(extra: Mapping[str, Any], cut: bool) -> Seen:
    media = extra.get("media") or []
    return Seen(
        kept_times_s=[list(medium.get("kept_times_s") or []) for medium in media],
        num_sampled=[int(medium.get("num_sampled") or 0) for medium in media],
        damage=[medium.get("damage") for medium in media],
        visual_tokens=int(extra.get("visual_tokens") or 0),
        regime=str(extra.get("regime") or ""),
        cached=bool((extra.get("cache") or {}).get("visual")),
        seconds=dict(extra.get("seconds") or {}),
        cut=cut,
    )
