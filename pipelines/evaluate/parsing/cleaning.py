"""A raw reply -> the text that the model meant to be read.

Reasoning blocks, turns of the chat template, struck-out text and the wrapping of Markdown, HTML and LaTeX are taken
away; what is left is plain lines. Answer fields become lines too (:mod:`.fields`).
"""

from __future__ import annotations

import html
import re

from pipelines.evaluate.parsing.characters import plain
from pipelines.evaluate.parsing.fields import fields_as_lines

# Characters at either end of a reply that are read.
_REACH = 12_000
_BLOCK = r"(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad|analysis|reason)"
_OPEN = re.compile(
    rf"<\s*\|?\s*{_BLOCK}(?:\s[^<>]*)?\|?\s*>|\[{_BLOCK}\]|◁{_BLOCK}▷|<\|begin_of_thought\|>|<seed:think>|"
    rf"```\s*{_BLOCK}\s*\n",
    re.I,
)
_CLOSE = re.compile(
    rf"<\s*\|?\s*/\s*{_BLOCK}\s*\|?\s*>|\[/{_BLOCK}\]|◁/{_BLOCK}▷|<\|end_of_thought\|>|</seed:think>|<\|/{_BLOCK}\|>",
    re.I,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)\s*(?:<\|message\|>)?", re.I)
_ROLES = r"(?:assistant|model|gpt|bot|ai|user|human|system|chatgpt|answerer)"
_STOP_TOKEN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|eos|end|return|eom_id|end_of_turn|endofturn|eot|end_of_sentence|"
    r"end▁of▁sentence|user|system)\|>|<[|｜]end▁of▁sentence[|｜]>|<(?:eos|end_of_turn|EOS|end_of_utterance|stop|eot|eod)>|"
    r"\[(?:EOS|/?SEP|eos|eop|/?STOP)\]|<eop>|<eoa>|<\|eoc\|>|<endoftext>|<TOKENS_UNUSED_1>",
    re.I,
)
_START_TOKEN = re.compile(
    r"<\|start_header_id\|>\s*\w*\s*<\|end_header_id\|>|<\|(?:im_start|start|start_of_turn|start_of_role)\|>\s*"
    rf"(?:{_ROLES}\b)?[ :]*|<start_of_turn>\s*(?:{_ROLES}\b)?|<\|(?:begin_of_text|startoftext|bos|pad|assistant|"
    r"message|endofprompt|begin_of_box|end_of_box|box_start|box_end|beginoftext|unk|padding|finetune_right_pad_id|image_pad|"
    r"video_pad|vision_start|vision_end|end_header_id|end_of_role|begin_of_solution|end_of_solution|object_ref_start|"
    r"object_ref_end|quad_start|quad_end|image|video|image_1)\|>|<(?:bos|pad|unk|BOS|PAD|UNK|CLS|sep|image|video|"
    r"start_of_image|cls|mask)>|\[(?:BOS|PAD|UNK|CLS|pad|bos|MASK|gMASK|sMASK)\]|\[/?INST\]|<</?SYS>>|"
    r"<[|｜](?:Assistant|User|begin▁of▁sentence)[|｜]>|<\|[\w▁-]{1,40}\|>",
    re.I,
)
_ROLE_LINE = re.compile(
    rf"^[ \t]*(?:#{{1,4}}[ \t]*)?(?:\*\*)?{_ROLES}(?:\*\*)?[ \t]*(?::(?:\*\*)?|\n)[ \t]*", re.I | re.M
)
_ASKED_TURN = re.compile(
    r"\A\s*(?:user|human|system)[ \t]*:.*?^[ \t]*(?:assistant|model|gpt|bot|ai|chatgpt)[ \t]*:", re.I | re.M | re.S
)
_STRUCK = (
    re.compile(r"~~[^~]*(?:~[^~]+)*~~"),
    re.compile(r"(?<![\w~])~(?![\s\d~])[^~\n]{0,200}?(?<![\s~])~(?![\w~])"),
    re.compile(r"\\(?:sout|st|cancel|bcancel|xcancel|hcancel|textst)\s{0,9}\{[^{}]*\}"),
)
_STRUCK_PAIRS = (
    (re.compile(r"<(?:del|strike)(?:\s[^<>]*)?>", re.I), re.compile(r"</(?:del|strike)\s*>", re.I)),
    (re.compile(r"\[(?:s|strike|del)\]", re.I), re.compile(r"\[/(?:s|strike|del)\]", re.I)),
    (re.compile(r"<span[^<>]*line-through[^<>]*>", re.I), re.compile(r"</span\s*>", re.I)),
    (re.compile(r"<!--"), re.compile(r"-->|\Z")),
)
_S_PAIR = (re.compile(r"<s>", re.I), re.compile(r"</s>", re.I))
_LATEX_WRAP = re.compile(
    r"\\(?:boxed|fbox|framebox|text|textbf|textit|texttt|textrm|textsf|mathrm|mathbf|mathit|mathsf|mathtt|mathbb|"
    r"mathcal|operatorname|emph|underline|bm|boldsymbol|mbox|textnormal|bf|rm|ensuremath|colorbox|displaystyle|"
    r"underbrace|overline|hbox|large|Large|huge|Huge)\s*\*?\s*\{([^{}]*)\}"
)
_LATEX_BARE = re.compile(
    r"\\boxed\s*(?=[A-Za-z0-9]\b)|\\(?:boxed|fbox)\s*\{?|\bboxed\{|\\(?:displaystyle|quad|qquad|left|right|bf|rm)\b"
)
_LATEX_SIGNS = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r"\1/\2"),
    (re.compile(r"\^\{?\\circ\}?|\\degree\b"), "°"),
    (re.compile(r"\\times\b"), "×"),
    (re.compile(r"\\div\b"), "÷"),
    (re.compile(r"\\pm\b"), "±"),
    (re.compile(r"\\leq?\b"), "≤"),
    (re.compile(r"\\geq?\b"), "≥"),
    (re.compile(r"\\(?:right|Right|long|Long)(?:right)?arrow\b|\\to\b|\\implies\b|\\therefore\b"), "→"),
    (re.compile(r"\\(?:checkmark)\b"), "✓"),
    (re.compile(r"\\(?:begin|end)\{[^{}]*\}|\\item\b"), "\n"),
    (re.compile(r"\$\$|\\[\[\]()]"), " "),
    (re.compile(r"\$([^$\n]{1,200}?)\$(?!\d)"), r"\1"),
    (re.compile(r"\\\\(?=\s)"), "\n"),
    (re.compile(r"\\[,;:! ]"), " "),
    (re.compile(r"\\([%$&#_{}*\-.!\[\]()>+`~|])"), r"\1"),
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w+-]*[ \t]*$", re.M)
_TILDE_FENCE = re.compile(r"^[ \t]*~{3,}[\w+-]*[ \t]*$", re.M)
_POINTED_AT = re.compile(
    r"(?<![ \t])[ \t]*(?:<[-=]{1,4}|[←⬅⇐👈]\uFE0F?)[ \t]*"
    r"(?:(?:this(?: one)?|here|(?:my |the )?(?:answer|choice|pick)|correct)[ \t]*[.!]?)?[ \t]*$",
    re.M | re.I,
)
_INLINE_FENCE = re.compile(r"```(?:[a-z]{2,10}\b[ \t]*\n)?|~~~")
_LINE_TAG = re.compile(
    r"<\s*/?\s*(?:p|div|br|li|ul|ol|h[1-6]|section|article|blockquote|pre|hr|dd|dt|dl|body|html|head|main|header|footer|center|details|summary)\b[^<>]*>",
    re.I,
)
_TAG = re.compile(r"<\s*/?\s*[A-Za-z][\w:-]*(?:\s+[^<>]*)?/?\s*>")
_LETTER_TAG = re.compile(r"<\s*([A-Za-z])\s*>")
_EMPHASIS = (
    re.compile(r"(\*{1,3})(?=\S)([^*\n]*?\S)\1"),
    re.compile(r"(?<![^\W_])(_{1,3})(?=[^\s_])([^\n_]*?[^\s_])\1(?![^\W_])"),
    re.compile(r"(`{1,2})(?=\S)([^`\n]*?\S)\1"),
    re.compile(r"(?<!\w)(==|\+\+)(?=\S)([^=+\n]*?\S)\1(?!\w)"),
)
_LINE_LEAD = re.compile(r"^[ \t]*(?:>[ \t]?)*[ \t]*(?:#{1,6}[ \t]+|[-+*•][ \t]+(?=\S))?", re.M)
_HEADING_TAIL = re.compile(r"[ \t]+#{1,6}[ \t]*$", re.M)
_RULE = re.compile(r"^[ \t]*(?:[-*_=][ \t]*){3,}$", re.M)
_LINK = re.compile(r"!?\[([^\[\]\n]*)\]\((?:https?:|#|/|www\.)[^()\n]*\)")
_BOX = r"(?:\[[ xX✓✗]?\]|[☑✅◉🔘☐⬜◯])"
_BOXES = re.compile(rf"^[ \t]*{_BOX}[^\n]*?{_BOX}[ \t]*\w[^\n]*$", re.M)
_CHECKED = re.compile(r"^[ \t]*(?:[-*+][ \t]*)?(?:\[[xX✓✗]\]|\([xX✓]\)|☑|✅|◉|🔘)[ \t]*(?=\S)(.*)$", re.M)
_UNCHECKED = re.compile(r"^[ \t]*(?:[-*+][ \t]*)?(?:\[[ ]?\]|\([ ]\)|☐|⬜|◯)[ \t]*(?=\S)(.*)$", re.M)
_BOLD_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+)?(?:\*\*|__)\s*\(?[A-Za-z][).:][^\n*_]*(?:\*\*|__)[ \t]*[^\n\w]*$")
_BULLET = r"^[ \t]*(?:[-*+•]|\d{1,2}[.)])[ \t]+"
_BOLD_BULLET = re.compile(_BULLET + r"(?:\*\*[^\n*]+\*\*|__[^\n_]+__)[ \t]*$")
_ANY_BULLET = re.compile(_BULLET + r"\S")
_PLAIN_ITEM = re.compile(r"^[ \t]*(?:[-*+][ \t]+)?\(?[A-Za-z][).:]\s*\S")


def clean(reply: str) -> str | None:
    """Return the plain text of ``reply``; None when a reasoning block is still open at its end."""
    text = html.unescape(reply)
    text = _final_channel(text)
    after = _after_reasoning(text)
    if after is None:
        return None
    after = _within_reach(after)
    text = _first_turn(_without_struck(_TILDE_FENCE.sub("", after)))
    text = fields_as_lines(text)
    text = _marked_items(text)
    text = _unwrap(text)
    return _without_struck(plain(text))


def _within_reach(text: str) -> str:
    """The beginning and the end of a text that is longer than any answer."""
    return text if len(text) <= 2 * _REACH else f"{text[:_REACH]}\n\n{text[-_REACH:]}"


def _final_channel(text: str) -> str:
    """Keep the last channel of a reply that is written in channels (analysis, commentary, final)."""
    channels = list(_CHANNEL.finditer(text))
    if not channels:
        return text
    last = channels[-1]
    return text[last.end() :] if last[1].lower() == "final" else "<think>"


def _after_reasoning(text: str) -> str | None:
    """Take reasoning blocks away. An opening tag may be missing; an unclosed block leaves nothing."""
    kept, depth, position = [], 0, 0
    marks = sorted(
        [(m.start(), m.end(), 1) for m in _OPEN.finditer(text)]
        + [(m.start(), m.end(), -1) for m in _CLOSE.finditer(text)]
    )
    for start, end, step in marks:
        if step > 0:
            if depth == 0:
                kept.append(text[position:start])
            depth = 1
        else:
            if depth == 0:
                kept.clear()
            depth = 0
        position = end
    if depth:
        return None
    return "\n".join([*kept, text[position:]])


def _without_struck(text: str) -> str:
    for pattern in _STRUCK:
        text = pattern.sub(" ", text)
    for opening, closing in _STRUCK_PAIRS:
        text = _without_pairs(text, opening, closing)
    return text


def _without_pairs(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Drop each stretch from an opening to the next closing; an opening without one stays."""
    kept, position = [], 0
    while (start := opening.search(text, position)) is not None:
        end = closing.search(text, start.end())
        if end is None:
            break
        kept.append(text[position : start.start()])
        position = max(end.end(), start.end())
    return " ".join([*kept, text[position:]])


def _first_turn(text: str) -> str:
    """Drop role markers, start tokens and padding; end at the first stop token that follows some text."""
    text = re.sub(r"^.*?\[/INST\]", " ", text, count=1, flags=re.S | re.I)
    text = _ASKED_TURN.sub("", text)
    text = _START_TOKEN.sub(lambda token: token[0] if _STOP_TOKEN.fullmatch(token[0]) else " \n", text)
    start = _S_PAIR[0].search(text)
    end = _S_PAIR[1].search(text, start.end()) if start else None
    if (
        start
        and end
        and not text[: start.start()].strip()
        and not _ROLE_LINE.sub("", text[end.end() :]).strip("</s> \n")
    ):
        text = text[start.end() : end.start()]
    text = re.sub(r"<s>", " ", _without_pairs(text, *_S_PAIR), flags=re.I)
    position = 0
    for stop in re.finditer(f"(?:{_STOP_TOKEN.pattern})|</s>", text, flags=re.I):
        part = _ROLE_LINE.sub("", text[position : stop.start()])
        if part.strip():
            return part
        position = stop.end()
    return _ROLE_LINE.sub("", text[position:])


def _marked_items(text: str) -> str:
    """Write the mark of a ticked, or of the only bold, item of a list as a tick behind it."""
    text = _POINTED_AT.sub(" ✓", text)
    text = _BOXES.sub(lambda line: re.sub(f"(?={_BOX})", "\n", line[0]), text)
    ticked = _CHECKED.sub(lambda line: f"{line[1]} ✓", text)
    text = _UNCHECKED.sub(lambda line: f"{line[1]} ✗" if ticked != text else line[1], ticked)
    lines = text.split("\n")
    bold = [index for index, line in enumerate(lines) if _BOLD_ITEM.match(line)]
    items = sum(bool(_PLAIN_ITEM.match(line)) for line in lines)
    if not bold and sum(bool(_ANY_BULLET.match(line)) for line in lines) > 2:
        bold, items = [index for index, line in enumerate(lines) if _BOLD_BULLET.match(line)], 1
    if len(bold) == 1 and items >= 1:
        lines[bold[0]] += " ✓"
    return "\n".join(lines)


def _unwrap(text: str) -> str:
    text = re.sub(r"\\n(?![a-z])", "\n", text)
    for pattern, sign in _LATEX_SIGNS[:1]:
        text = pattern.sub(sign, text)
    for _ in range(4):
        unwrapped = _LATEX_WRAP.sub(r" \1 ", text)
        if unwrapped == text:
            break
        text = unwrapped
    text = _LATEX_BARE.sub(" ", text)
    for pattern, sign in _LATEX_SIGNS[1:]:
        text = pattern.sub(sign, text)
    text = _INLINE_FENCE.sub("\n", _FENCE.sub("", text))
    closed = {tag.lower() for tag in re.findall(r"<\s{0,9}/\s{0,9}([A-Za-z])\s{0,9}>", text)}
    text = _LETTER_TAG.sub(lambda tag: "" if tag[1].lower() in closed | set("pius") else f"({tag[1]})", text)
    text = _TAG.sub("", _LINE_TAG.sub("\n", text))
    text = _RULE.sub("", text)
    text = _LINK.sub(r"\1", text)
    for _ in range(3):
        for pattern in _EMPHASIS:
            text = pattern.sub(r"\2", text)
    text = _HEADING_TAIL.sub("", _LINE_LEAD.sub("", text))
    return re.sub(r"(?<=\s)\*{1,3}(?=\s|$)|^\*{1,3}|\*{2,3}", "", text)
