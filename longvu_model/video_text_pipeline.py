"""``transformers.pipeline("video-text-to-text")``: a video and a question in, text out."""

from __future__ import annotations

from typing import Any

from transformers import ImageTextToTextPipeline


class VideoTextToTextPipeline(ImageTextToTextPipeline):
    """The library's image-text-to-text pipeline, which takes chats with any media, with a shorthand for one video."""

    def __call__(self, video: Any = None, text: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Answers a question about a video, or continues a chat.

        Args:
            video: path, bytes or frames of the video; or a chat (a list of messages with ``video`` parts).
            text: the question; or a chat, when ``video`` is not given.

        Raises:
            ValueError: a question without a video, or a video without a question.
        """
        if text is None or video is None:
            chat = text if video is None else video
            if not isinstance(chat, list):
                raise ValueError("give a video and a question, e.g. pipe('clip.mp4', 'What happens?'), or a chat")
        else:
            content = [{"type": "video", "video": video}, {"type": "text", "text": text}]
            chat = [{"role": "user", "content": content}]
        return super().__call__(text=chat, **kwargs)
