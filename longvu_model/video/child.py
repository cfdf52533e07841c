"""The decoding child process: ``python -m longvu_model.video.child``, started by ``supervised.py``.

Jobs come on standard input, one pickle each. Answers leave on the descriptor that was standard output: JSON headers
and raw arrays, never pickles, because what this process reads comes from strangers and may take it over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import pickle
import resource
import select
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from PIL import Image

from longvu_model.tower_pixels import square
from longvu_model.video.decode import FrameStream, iter_frame_blocks
from longvu_model.video.errors import TooLarge, VideoError

LENGTH = struct.Struct("<Q")
"""Every message begins with the length of its header (or pickle) in bytes."""

# Memory that Pillow keeps for the next pictures, in blocks of up to 16 MB; new pages cost 2 ms a frame at 720p.
_KEPT_IMAGE_BLOCKS = 8


def main() -> None:
    memory_bytes = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not mix with answers
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    av.logging.restore_default_callback()  # FFmpeg's errors to standard error, for the log tail
    av.logging.set_libav_level(av.logging.ERROR)
    Image.core.set_blocks_max(_KEPT_IMAGE_BLOCKS)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    jobs = sys.stdin.buffer
    with contextlib.suppress(BrokenPipeError):
        while header := jobs.read(LENGTH.size):
            _answer(pickle.loads(jobs.read(LENGTH.unpack(header)[0])), answers)


def _die_with_parent() -> None:
    """End this process when the parent's end of standard input closes, also in the middle of a native call."""
    watch = select.poll()
    watch.register(0, 0)  # hang-up is always reported
    watch.poll()
    os._exit(1)


def _answer(job: dict[str, Any], answers: io.RawIOBase) -> None:
    name, squares, whole = job.pop("name"), job.pop("squares"), job.pop("whole")
    try:
        stream = iter_frame_blocks(**job)
        _send(answers, {"kind": "plan"}, stream.indices)
        for header, arrays in _blocks(stream, squares, whole):
            _send(answers, header, *arrays)
        _send(answers, {"kind": "done", "summary": dataclasses.asdict(stream.summary)})
    except VideoError as error:
        _send(answers, {"kind": "failed", "code": error.code, "message": error.message})
    except MemoryError:
        _send(
            answers,
            {
                "kind": "failed",
                "code": TooLarge.code,
                "out_of_memory": True,
                "message": f"{name}: decoding needs more memory than it may have",
            },
        )
    except (ValueError, ImportError) as error:
        _send(answers, {"kind": "refused", "error": type(error).__name__, "message": str(error)})


def _blocks(
    stream: FrameStream, squares: Sequence[tuple[int, tuple[int, ...] | None]], whole: bool
) -> Iterator[tuple[dict[str, Any], tuple[Any, ...]]]:
    """Headers and arrays of blocks: indices, times, frames, and the squares that were asked for."""
    for block in stream:
        pictures = [Image.fromarray(frame) for frame in block.frames] if squares else []
        resized = [
            np.stack([np.asarray(square(picture, size, fill)) for picture in pictures]) for size, fill in squares
        ]
        frames = [block.frames if whole else block.frames[:, :0, :0], *resized]
        yield {"kind": "block", "shapes": [array.shape for array in frames]}, (block.indices, block.pts_s, *frames)


def _send(answers: io.RawIOBase, header: dict[str, Any], *arrays: Any) -> None:
    header["sizes"] = [array.nbytes for array in arrays]
    text = json.dumps(header).encode()
    for part in (LENGTH.pack(len(text)) + text, *arrays):
        view = memoryview(part)
        view = view.cast("B") if view.nbytes else memoryview(b"")  # an empty array cannot be cast
        while view:
            view = view[answers.write(view) :]


if __name__ == "__main__":
    main()
