"""A chat page on the endpoint: drop a video, ask, and see the frames that the model kept.

The page is a client of the endpoint like any other: it sends what a visitor asks over HTTP with the visitor's own
Authorization header, and files go through ``/v1/videos``. It fetches nothing from the internet, in the server or in
the browser, and of Gradio's routes only those that it needs are reachable.
"""

from __future__ import annotations

import base64
import contextlib
import html
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from fastapi import FastAPI

from longvu_model.video import VideoError
from pipelines.chat_client import ChatClient, ChatError, Conversation, Medium, Seen
from pipelines.serve import ui_style
from pipelines.serve.config import ServeConfig
from pipelines.serve.filmstrip import Still, filmstrip
from pipelines.serve.guard import MediaPolicy
from pipelines.serve.ui_routes import PATH, UiRoutes

_QUESTIONS = ("What happens in this video?", "What changes from beginning to end?", "Describe the last scene.")
_FILES_KEPT_S = 24 * 3600
_VISITORS_AT_ONCE = 64


@dataclass
class Session:
    """One visitor's page.

    Attributes:
        path: the dropped file, as Gradio keeps it.
        shown: the messages on the page.
        strip: the kept frames on the page, as HTML, and the times that they belong to.
    """

    path: Path | None = None
    medium: Medium | None = None
    conversation: Conversation = field(default_factory=Conversation)
    shown: list[dict[str, str]] = field(default_factory=list)
    strip: tuple[list[float], str] = field(default_factory=lambda: ([], ""))


def mount(app: FastAPI, config: ServeConfig) -> FastAPI:
    """Add the page to an endpoint's app, at :data:`PATH`; to be called before the app has started.

    Dropped files lie below the workdir for a day, within the limits and beside the quota of uploads.
    """
    folder = config.workdir.absolute() / "dropped"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # read when components are made
    page = _Page(f"http://127.0.0.1:{config.port}/v1", folder.resolve(), config.media).blocks()
    page.queue(default_concurrency_limit=_VISITORS_AT_ONCE)
    gr.mount_gradio_app(
        app, page, path=PATH, footer_links=[], run_history=False, ssr_mode=False, enable_monitoring=False, pwa=False,
        mcp_server=False, max_file_size=config.uploads.max_bytes,
        theme=ui_style.theme(), css=ui_style.CSS, head=ui_style.HEAD,
    )  # fmt: skip
    app.add_middleware(UiRoutes, folder=folder, quota_bytes=config.uploads.quota_bytes)
    return app


class _Page:
    """The page and what its events do. It holds nothing of its visitors: their sessions are Gradio's."""

    def __init__(self, base_url: str, folder: Path, policy: MediaPolicy) -> None:
        self._base_url, self._folder, self._policy = base_url, folder, policy

    def blocks(self) -> gr.Blocks:
        with gr.Blocks(title="LongVU", analytics_enabled=False, delete_cache=(3600, _FILES_KEPT_S)) as page:
            session = gr.State(Session())
            gr.HTML(_HEADER, elem_classes="lv-plain")
            with gr.Row(elem_id="lv-work"):
                with gr.Column(scale=4, min_width=300, elem_id="lv-side"):
                    # Its choices come later; a name that is none of them is the endpoint's to refuse.
                    model = gr.Dropdown(label="Model", visible=False, allow_custom_value=True, elem_id="lv-model")
                    drop = _dropped_only(gr.File(show_label=False, elem_id="lv-drop"), self._folder)
                    media = gr.HTML(elem_id="lv-media", elem_classes="lv-plain", visible=False)
                    strip = gr.HTML(_note(_STRIP_EMPTY), elem_classes="lv-plain")
                with gr.Column(scale=6, min_width=300):
                    chat = gr.Chatbot(
                        placeholder=_EMPTY,
                        show_label=False,
                        height="58vh",
                        elem_id="lv-chat",
                        buttons=["copy"],
                        feedback_options=None,
                        examples=[{"text": question} for question in _QUESTIONS],
                    )
                    problem = gr.HTML(elem_id="lv-problem", elem_classes="lv-plain", visible=False)
                    question = gr.Textbox(
                        placeholder="Ask about the video",
                        show_label=False,
                        submit_btn=True,
                        max_lines=5,
                        autofocus=True,
                        elem_id="lv-ask",
                        max_length=8000,
                    )
                    with gr.Row(elem_id="lv-below"):
                        facts = gr.HTML(elem_classes="lv-plain")
                        restart = gr.Button("New conversation", size="sm", variant="secondary", elem_id="lv-restart")

            opened = [session, media, strip, chat, problem, facts]
            private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
            page.load(self.models, outputs=[model, problem], **private)
            drop.upload(self.open_file, [drop, session], [*opened, drop], **private)
            drop.clear(self.close_file, [session], opened, **private)
            answering = question.submit(
                self.ask, [question, model, session], [session, chat, question, strip, problem, facts], **private
            )
            question.submit(None, js=_SHOW_CHAT, **private)
            question.stop(self.stop, [session], [chat, question], cancels=[answering], **private)
            chat.example_select(self.example, outputs=[question], **private)
            restart.click(self.restart, [session], [session, chat, problem, facts], cancels=[answering], **private)
        return page

    def models(self, request: gr.Request) -> tuple[Any, Any]:
        """The models to choose from; nothing to choose where there is one."""
        try:
            with self._client(request) as client:
                names = client.models()
        except ChatError as error:
            return gr.skip(), _problem(error)
        return gr.Dropdown(choices=names, value=names[0] if names else None, visible=len(names) > 1), _problem(None)

    def open_file(self, file: str | None, session: Session, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Send a dropped file to the endpoint and show it."""
        path = Path(file or "").resolve()
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise gr.Error("only files that were dropped here are opened", print_exception=False)
        checking = _note("Checking the file", busy=True)
        yield session, gr.HTML(visible=False), checking, [], _problem(None), "", gr.skip()
        try:
            with self._client(request) as client:
                medium = client.upload(path)
        except ChatError as error:
            session = Session()
            yield session, gr.HTML(visible=False), _note(_STRIP_EMPTY), [], _problem(error), "", None
            return
        session = Session(path, medium, Conversation(medium.part))
        shown = gr.HTML(_shown(medium, path), visible=True)
        yield session, shown, _note(_STRIP_WAITING), [], _problem(None), "", gr.skip()

    def close_file(self, session: Session) -> tuple[Any, ...]:
        return Session(), gr.HTML(visible=False), _note(_STRIP_EMPTY), [], _problem(None), ""

    def ask(self, question: str, model: str | None, session: Session, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Answer word by word; then the facts, and the frames if they are new ones."""
        question = question.strip()
        if session.medium is None or not question:
            missing = "Drop a video or picture first; then ask about it" if question else "Write a question first"
            yield gr.skip(), gr.skip(), gr.skip(), gr.skip(), _problem(ChatError(missing)), gr.skip()
            return
        before = list(session.shown)
        session.shown = [*before, _said("user", question), _said("assistant", _WAITING)]
        first = not before
        waiting = _note("Watching the video", busy=True) if first else gr.skip()
        yield session, session.shown, _box(busy=True), waiting, _problem(None), ""
        answer, seen = "", Seen()
        try:
            with (
                self._client(request) as client,
                contextlib.closing(
                    client.answer(model or client.models()[0], session.conversation.asked(question))
                ) as words,
            ):
                for piece in words:
                    if isinstance(piece, Seen):
                        seen = piece
                        continue
                    answer += piece
                    session.shown[-1] = _said("assistant", answer)
                    yield session, session.shown, gr.skip(), gr.skip(), gr.skip(), gr.skip()
        except ChatError as error:
            session.shown = before
            still = _note(_STRIP_WAITING) if first else gr.skip()
            yield session, before, _box(question), still, _problem(error), ""
            return
        session.conversation.answered(question, answer)
        session.shown[-1] = _said("assistant", answer or "(no words)")
        yield session, session.shown, _box(), self._strip(session, seen), gr.skip(), _facts(seen)

    def stop(self, session: Session) -> tuple[Any, Any]:
        """After an answer was cancelled: what there is of it stays on the page."""
        if session.shown and session.shown[-1]["content"] == _WAITING:
            session.shown[-1] = _said("assistant", "(stopped)")
        return session.shown, _box()

    def restart(self, session: Session) -> tuple[Any, ...]:
        """Forget the conversation, keep the video."""
        media = [session.medium.part] if session.medium else []
        session.conversation, session.shown = Conversation(*media), []
        return session, [], _problem(None), ""

    @staticmethod
    def example(event: gr.SelectData) -> str:
        """A question that was offered."""
        return str(event.value["text"])

    def _client(self, request: gr.Request) -> contextlib.AbstractContextManager[ChatClient]:
        authorization = request.headers.get("authorization")
        return contextlib.closing(ChatClient(self._base_url, authorization=authorization, trust_env=False))

    def _strip(self, session: Session, seen: Seen) -> Any:
        """The kept frames; they are decoded again only when others were kept than before."""
        assert session.path is not None and session.medium is not None
        if session.medium.kind == "image" or not seen.kept_times_s:
            return ""
        times_s = seen.kept_times_s[0]
        if session.strip[0] != times_s or not session.strip[1]:
            try:
                stills = filmstrip(session.path, times_s, seen.num_sampled[0], self._policy)
            except VideoError:
                return _note("The kept frames cannot be shown.")
            session.strip = times_s, _strip_html(stills, len(times_s), seen.num_sampled[0])
        return session.strip[1]


def _dropped_only(component: gr.File, folder: Path) -> gr.File:
    """Keep Gradio 6.31 from what a client may name in place of a dropped file: it fetches URLs, and copies any file of
    the server to where the client can read it."""
    keep = component.async_move_resource_to_block_cache

    async def keep_dropped(place: str | Path | None) -> str | None:
        if place is not None and not Path(place).resolve().is_relative_to(folder):
            raise gr.Error("only files that were dropped here are opened", print_exception=False)
        return await keep(place)

    # On the instance: for a subclass Gradio would write a .pyi file beside this one.
    component.async_move_resource_to_block_cache = keep_dropped  # type: ignore[assignment]
    return component


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _box(text: str = "", busy: bool = False) -> Any:
    """The question's box, with a button to send or, while an answer comes, to stop."""
    return gr.Textbox(value=text, submit_btn=not busy, stop_btn=busy)


def _problem(error: ChatError | None) -> Any:
    if error is None:
        return gr.HTML("", visible=False)
    reason, _, fix = str(error).rpartition("; ")
    told = f"<b>{html.escape(_sentence(reason or fix))}</b>" + (html.escape(_sentence(fix)) if reason else "")
    return gr.HTML(f'<div class="lv-error" role="alert"><div>{told}</div></div>', visible=True)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _note(text: str, busy: bool = False) -> str:
    return f'<div class="lv-note{" lv-busy" if busy else ""}" role="status">{html.escape(text)}</div>'


def _facts(seen: Seen) -> str:
    lines = [f'<div class="lv-facts">{html.escape(str(seen))}</div>']
    if seen.cut:
        lines.append('<div class="lv-warning">The answer was longer than allowed and is cut.</div>')
    lines += [
        f'<div class="lv-warning">Only the beginning of the file could be read: {html.escape(damage)}</div>'
        for damage in seen.damage
        if damage
    ]
    return "".join(lines)


def _shown(medium: Medium, path: Path) -> str:
    source = f"{PATH}/gradio_api/file={quote(str(path))}"
    if medium.kind == "image":
        return f'<img class="lv-picture" src="{source}" alt="The picture">'
    return f'<video id="lv-player" src="{source}#t=0.01" controls muted playsinline preload="metadata"></video>'


def _strip_html(stills: list[Still], num_kept: int, num_sampled: int) -> str:
    part = f", {len(stills)} shown" if len(stills) < num_kept else ""
    title = f"<b>Kept frames</b><span>{num_kept} of {num_sampled} sampled{part}</span>"
    return f'<div class="lv-strip-title">{title}</div><div class="lv-strip">{"".join(map(_picture, stills))}</div>'


def _picture(still: Still) -> str:
    """A frame that takes the player to its time."""
    clock = _clock(still.time_s)
    data = base64.b64encode(still.jpeg).decode()
    seek = f"const v=document.getElementById('lv-player');if(v){{v.pause();v.currentTime={still.time_s:.6f}}}"
    return (
        f'<button type="button" title="Go to {clock}" onclick="{seek}">'
        f'<img src="data:image/jpeg;base64,{data}" alt="Frame at {clock}"><time>{clock}</time></button>'
    )


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(int(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


# Where the page is one column, the answer comes below the video and the frames.
_SHOW_CHAT = """() => {
  if (innerWidth <= 760) document.getElementById("lv-chat").scrollIntoView({behavior: "smooth", block: "start"});
}"""
_WAITING = "…"
_STRIP_EMPTY = "The frames that the model keeps appear here."
_STRIP_WAITING = "Ask a question: the frames that the model keeps appear here."
_EMPTY = """<div class="lv-empty"><b>Ask about a long video</b>
<span>Drop a video or picture, then ask. The first answer takes a moment, the next ones come at once.</span></div>"""
_HEADER = """<div id="lv-head"><svg width="30" height="30" viewBox="0 0 30 30" aria-hidden="true">
<rect x="1" y="5" width="28" height="20" rx="5" fill="none" stroke="currentColor" stroke-width="1.6" opacity=".35"/>
<rect x="4.5" y="9" width="5" height="12" rx="1.6" fill="#0d9488"/>
<rect x="12.5" y="9" width="5" height="12" rx="1.6" fill="#0d9488" opacity=".3"/>
<rect x="20.5" y="9" width="5" height="12" rx="1.6" fill="#0d9488"/>
</svg><div><h1>LongVU</h1><p>Long videos in, answers out</p></div></div>"""
