"""Small videos of every kind that the decoder must get right, encoded on the spot with PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

SHARED_VIDEOS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos"

WIDTH, HEIGHT = 96, 64


@dataclass(frozen=True)
class Clip:
    """How to encode a clip of moving shapes. ``times``: presentation time of frame k in milliseconds."""

    codec: str
    container: str = "mp4"
    num_frames: int = 72
    rate: int = 24
    gop: int = 24
    options: dict[str, str] = field(default_factory=dict)
    width: int = WIDTH
    height: int = HEIGHT
    pixel_format: str = "yuv420p"
    rotation: int = 0
    mirrored: bool = False
    times: Callable[[int], int] | None = None
    with_sound: bool = False

    def encode(self) -> bytes:
        """The bytes of the file."""
        file = io.BytesIO()
        with av.open(file, "w", format=self.container) as container:
            stream = container.add_stream(self.codec, rate=self.rate, options=dict(self.options))
            stream.width, stream.height, stream.pix_fmt = self.width, self.height, self.pixel_format
            stream.gop_size = self.gop
            stream.codec_context.thread_count = 1
            if self.rotation or self.mirrored:
                stream.set_display_rotation(self.rotation, hflip=self.mirrored)
            if self.times is not None:
                stream.codec_context.time_base = Fraction(1, 1000)
            sound = container.add_stream("aac", rate=16000, layout="mono") if self.with_sound else None
            for number in range(self.num_frames):
                frame = av.VideoFrame.from_ndarray(picture(number, self.width, self.height), format="rgb24")
                if self.times is not None:
                    frame.pts, frame.time_base = self.times(number), Fraction(1, 1000)
                container.mux(stream.encode(frame))
                if sound is not None:
                    container.mux(sound.encode(_silence(number, 16000 // self.rate)))
            container.mux(stream.encode())
            if sound is not None:
                container.mux(sound.encode())
        return file.getvalue()


def picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Frame ``number``: uint8 (height, width, 3); a drifting texture, a fast square, a new scene every 29 frames."""
    texture = _texture(number // 29, width, height)
    frame = np.roll(texture, (number, 2 * number), axis=(0, 1)).copy()
    x, y = (7 * number) % (width - 12), (3 * number) % (height - 12)
    frame[y : y + 12, x : x + 12] = (number * 37 % 256, number * 11 % 256, 255 - number % 256)
    return frame


@cache
def _texture(scene: int, width: int, height: int) -> np.ndarray:
    coarse = np.random.default_rng(scene).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _silence(number: int, samples: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = 16000, number * samples, Fraction(1, 16000)
    return frame


_FAST = {"preset": "veryfast"}
_X265 = "log-level=none:pools=1:frame-threads=1:"

CLIPS: dict[str, Clip] = {
    "h264_b_frames": Clip("libx264", options=_FAST),
    "h264_b_pyramid_slow": Clip("libx264", options={"preset": "slow", "x264-params": "bframes=5:b-adapt=0:ref=4"}),
    "h264_gop_1": Clip("libx264", gop=1, num_frames=30, options=_FAST),
    "h264_gop_7": Clip("libx264", gop=7, options=_FAST),
    "h264_gop_250": Clip("libx264", gop=250, num_frames=120, options=_FAST),
    "h264_no_b_frames": Clip("libx264", options={"preset": "ultrafast", "tune": "zerolatency"}),
    "h264_slices": Clip("libx264", options={**_FAST, "x264-params": "slices=3"}),
    "h264_open_gop": Clip("libx264", gop=12, options={"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}),
    "h264_interlaced": Clip("libx264", options={**_FAST, "x264-params": "tff=1"}),
    "h264_annex_b_ts": Clip("libx264", "mpegts", gop=10, options=_FAST),
    "h264_raw": Clip("libx264", "h264", gop=12, options=_FAST),
    "h264_mkv": Clip("libx264", "matroska", gop=12, options=_FAST),
    "h264_avi": Clip("libx264", "avi", gop=12, options=_FAST),
    "h264_10_bit": Clip("libx264", pixel_format="yuv420p10le", options=_FAST),
    "h264_444": Clip("libx264", pixel_format="yuv444p", options=_FAST),
    "h264_odd_size": Clip("libx264", width=98, height=66, options=_FAST),
    "h264_with_sound": Clip("libx264", options=_FAST, with_sound=True),
    "h264_variable_rate": Clip("libx264", "matroska", options=_FAST, times=lambda k: 40 * k + 7 * (k % 5) + k * k // 9),
    "h264_late_start": Clip("libx264", "matroska", options=_FAST, times=lambda k: 12_345 + 40 * k),
    "h264_rotated_90": Clip("libx264", rotation=90, options=_FAST),
    "h264_rotated_180": Clip("libx264", rotation=180, options=_FAST),
    "h264_rotated_270_mirrored": Clip("libx264", rotation=-90, mirrored=True, options=_FAST),
    "h264_mirrored": Clip("libx264", mirrored=True, options=_FAST),
    "hevc_closed_gop": Clip("libx265", options={**_FAST, "x265-params": _X265 + "open-gop=0:bframes=3"}),
    "hevc_open_gop": Clip("libx265", gop=12, options={**_FAST, "x265-params": _X265 + "open-gop=1:bframes=3"}),
    "hevc_temporal_layers": Clip(
        "libx265", options={**_FAST, "x265-params": _X265 + "open-gop=0:bframes=3:temporal-layers=3"}
    ),
    "hevc_radl": Clip("libx265", gop=10, options={**_FAST, "x265-params": _X265 + "open-gop=0:radl=2:bframes=3"}),
    "hevc_annex_b_ts": Clip("libx265", "mpegts", gop=10, options={**_FAST, "x265-params": _X265 + "open-gop=0"}),
    "vp9": Clip("libvpx-vp9", "webm", num_frames=48, options={"deadline": "realtime", "cpu-used": "8"}),
    "vp9_alt_ref": Clip(
        "libvpx-vp9",
        "webm",
        num_frames=48,
        options={"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "lag-in-frames": "16"},
    ),
    "av1": Clip("libsvtav1", "matroska", num_frames=48, options={"preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4_b_frames": Clip("mpeg4", gop=12, options={"bf": "2"}),
    "mpeg4_avi": Clip("mpeg4", "avi", gop=12, options={"bf": "2"}),
    "mpeg2": Clip("mpeg2video", "mpegts", gop=12, options={"bf": "2"}),
    "mpeg2_program_stream": Clip("mpeg2video", "mpeg", gop=12, options={"bf": "2"}),
    "mjpeg": Clip("mjpeg", pixel_format="yuvj420p", num_frames=30),
    "ffv1": Clip("ffv1", "matroska", num_frames=30, gop=10),
    "gif": Clip("gif", "gif", num_frames=20, rate=10, pixel_format="rgb8"),
}


@cache
def clip(name: str) -> bytes:
    """The bytes of a named clip, encoded once per test run."""
    return CLIPS[name].encode()


def remuxed_with_hidden_frames(data: bytes, path: Path, hidden: int) -> Path:
    """A copy of a clip in which an edit list hides the first ``hidden`` frames."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(io.BytesIO(data)) as source, av.open(str(path), "w", container_options=options) as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        shift = int(hidden / 24 / source.streams.video[0].time_base)
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                copy.mux(packet)
    return path
