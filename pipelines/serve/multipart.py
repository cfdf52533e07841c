"""The one file of a multipart form, written to disk as it comes in and hashed on the way."""

from __future__ import annotations

import hashlib
from email.message import Message
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from pipelines.serve.refusals import Refusal

FILE_FIELD = "file"
# Fields that OpenAI's clients send beside a file; small, and without effect here.
_MOST_TEXT_BYTES = 4096


class FormFile:
    """Feed it a form's body in pieces; the field ``file`` goes to ``out``.

    Args:
        content_type: of the request, with its boundary.
        out: where the file's bytes go.
        max_bytes: largest file.

    Attributes:
        filename: as the client called it, without folders.
        num_bytes: of the file, so far.

    Raises:
        Refusal: no form, no boundary, two files, a file too large, or a body that breaks the format.
    """

    def __init__(self, content_type: str, out: BinaryIO, max_bytes: int):
        kind, boundary = _boundary(content_type)
        if kind != "multipart/form-data" or not boundary:
            raise _malformed(f"Content-Type {kind or 'none'} is no form")
        self.filename: str | None = None
        self.num_bytes = 0
        self._out, self._max_bytes = out, max_bytes
        self._sha256 = hashlib.sha256()
        self._header_name = self._header_value = b""
        self._disposition = Message()
        self._in_file = self._ended = False
        self._text_bytes = 0
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_text,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_part_data": self._part_data,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def write(self, piece: bytes) -> None:
        """The next bytes of the body."""
        try:
            self._parser.write(piece)
        except FormParserError as error:
            raise _malformed(str(error)) from None

    def finish(self) -> str:
        """SHA-256 of the file, after the last piece."""
        if not self._ended:
            raise _malformed("the form ends before its last boundary")
        if self.filename is None:
            raise _malformed("the form has no file")
        if self.num_bytes == 0:
            raise _malformed("the file is empty")
        return self._sha256.hexdigest()

    def _part_begin(self) -> None:
        self._disposition, self._in_file = Message(), False

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_text(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition["Content-Disposition"] = self._header_value.decode("utf-8", "replace")
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        if self._disposition.get_param("name", header="Content-Disposition") != FILE_FIELD:
            return
        if self.filename is not None:
            raise _malformed("the form has two files")
        self._in_file = True
        self.filename = _base_name(self._disposition.get_filename() or "")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._text_bytes += end - start
            if self._text_bytes > _MOST_TEXT_BYTES:
                raise _malformed(f"fields other than {FILE_FIELD!r} hold more than {_MOST_TEXT_BYTES} bytes")
            return
        self.num_bytes += end - start
        if self.num_bytes > self._max_bytes:
            raise too_large(self._max_bytes)
        piece = data[start:end]
        self._sha256.update(piece)
        self._out.write(piece)

    def _end(self) -> None:
        self._ended = True


def too_large(max_bytes: int) -> Refusal:
    """413: more bytes than an upload may have."""
    return Refusal(413, f"the upload has more than {max_bytes} bytes", "cut or compress it", "too_large", FILE_FIELD)


def _malformed(reason: str) -> Refusal:
    fix = f"send multipart/form-data with one file in the field {FILE_FIELD!r}"
    return Refusal(400, reason, fix, "invalid_form", FILE_FIELD)


def _boundary(content_type: str) -> tuple[str, str]:
    header = Message()
    header["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    boundary = header.get_param("boundary")
    given = bool(content_type) and isinstance(boundary, str) and boundary.isascii()
    return (header.get_content_type() if content_type else ""), (str(boundary) if given else "")


def _base_name(name: str) -> str:
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:255] or "unnamed"
