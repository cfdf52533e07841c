"""How far off predicted decoding times are: by codec, size, distance of key frames and sampling rate.

    python -m tests.benchmarks.decode_cost [--directory DIR] [--repeats 3]

Transcodes ten seconds of the shared sample video (of drawn scenes where that is not there), kept in DIR, and measures
the CPU time of ``decode_unit``, its child included, against ``decode_cost.video_seconds``. A common factor between this
machine and the one of the coefficients is taken out first, as it changes no balance; it is printed.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil

from longvu_model.tower_pixels import TowerPixels
from pipelines import storage
from pipelines.corpus.config import CorpusConfig
from pipelines.corpus.plan import plan_corpus
from pipelines.corpus.writer import draw_frames
from pipelines.extract.config import DecodeConfig
from pipelines.extract.decode import DecodeSettings, decode_unit
from pipelines.extract.fetch import Fetcher
from pipelines.extract.index import Source
from pipelines.extract.measure import measure
from pipelines.extract.plan import plan_units

_SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos" / "longvu_example.mp4"
_FRAMES, _FPS = 300, 30
_X264 = {"preset": "veryfast"}
_X265 = {"preset": "ultrafast", "x265-params": "log-level=none:pools=1:bframes=3:open-gop=0"}
_FILES = {
    "h264_180p_gop250.mp4": ("libx264", 320, 180, {**_X264, "g": "250"}),
    "h264_360p_gop250.mp4": ("libx264", 640, 360, {**_X264, "g": "250"}),
    "h264_360p_gop12.mp4": ("libx264", 640, 360, {**_X264, "g": "12"}),
    "h264_720p_gop250.mp4": ("libx264", 1280, 720, {**_X264, "g": "250"}),
    "h264_720p_gop60_crf16.mp4": ("libx264", 1280, 720, {**_X264, "g": "60", "crf": "16"}),
    "h264_720p_gop30.mkv": ("libx264", 1280, 720, {**_X264, "g": "30"}),
    "h264_1080p_gop250.mp4": ("libx264", 1920, 1080, {**_X264, "g": "250"}),
    "hevc_360p_gop250.mp4": ("libx265", 640, 360, {**_X265, "g": "250"}),
    "vp9_360p.webm": ("libvpx-vp9", 640, 360, {"deadline": "realtime", "cpu-used": "8", "g": "128"}),
    "av1_720p.mp4": ("libsvtav1", 1280, 720, {"preset": "12", "g": "128", "svtav1-params": "lp=1"}),
}
_RULES = ("fps:0.25", "fps:1", "fps:4")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decode_cost", description=__doc__.splitlines()[0])
    parser.add_argument("--directory", default=str(Path(tempfile.gettempdir()) / "longvu-decode-cost-benchmark"))
    parser.add_argument("--repeats", type=int, default=3, help="turns per file and rate")
    options = parser.parse_args()
    directory = Path(options.directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = []
    for (name, (codec, width, height, settings)), rule in itertools.product(_FILES.items(), _RULES):
        path = directory / name
        if not path.exists():
            transcode(path, codec, width, height, settings)
        predicted_s = measure(storage.resolve(path), rule, 512).predicted_s
        rows.append((name, rule, predicted_s, measured_s(path, rule, options.repeats)))
    ratios = np.array([predicted_s / spent_s for _, _, predicted_s, spent_s in rows])
    machine = float(np.exp(np.median(np.log(ratios))))
    print(f"{'file':28} {'rule':8} {'predicted':>9} {'measured':>9} {'off by':>7}   (CPU s of 10 s of video)")
    for (name, rule, predicted_s, spent_s), ratio in zip(rows, ratios / machine, strict=True):
        print(f"{name:28} {rule:8} {predicted_s:9.3f} {spent_s:9.3f} {ratio:6.2f}x")
    off = np.exp(np.abs(np.log(ratios / machine)))
    print(
        f"this machine is {1 / machine:.2f}x as slow as the predictions' own; beyond that they are off by "
        f"{np.median(off):.2f}x in the middle, {np.quantile(off, 0.9):.2f}x for nine of ten, {off.max():.2f}x at worst"
    )
    return 0


def measured_s(path: Path, rule: str, repeats: int) -> float:
    """CPU-seconds of decoding a file for a tower of the published size, the shortest of some turns."""
    status = path.stat()
    source = Source(storage.resolve(path), status.st_size, f"mtime:{status.st_mtime_ns}")
    (unit,) = plan_units([source], {}, "0" * 64, 512)
    settings = DecodeSettings(rule, {"dinov2": TowerPixels(378, (0.5,) * 3, (0.5,) * 3)}, 0, DecodeConfig())
    decode_unit(unit, settings, Fetcher(None, attempts=1))
    turns = []
    for _ in range(repeats):
        before_s = cpu_s()
        decode_unit(unit, settings, Fetcher(None, attempts=1))
        turns.append(cpu_s() - before_s)
    return max(min(turns), 0.01)


def cpu_s() -> float:
    """CPU-seconds of this process and its children so far."""
    here = psutil.Process()
    times = [process.cpu_times() for process in (here, *here.children(recursive=True))]
    return sum(spent.user + spent.system for spent in times)


def transcode(path: Path, codec: str, width: int, height: int, options: dict[str, str]) -> None:
    partial = path.with_name(f"partial-{path.name}")
    with av.open(str(partial), "w") as container:
        stream = container.add_stream(codec, rate=_FPS)
        stream.width, stream.height, stream.pix_fmt, stream.options = width, height, "yuv420p", options
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(itertools.islice(frames(), _FRAMES)):
            scaled = frame.reformat(width, height, "yuv420p")
            scaled.pts, scaled.time_base, scaled.pict_type = number, Fraction(1, _FPS), 0
            container.mux(stream.encode(scaled))
        container.mux(stream.encode(None))
    partial.rename(path)


def frames() -> Iterator[av.VideoFrame]:
    """Ten seconds of moving pictures."""
    if _SHARED.exists():
        with av.open(str(_SHARED)) as container:
            yield from container.decode(video=0)
        return
    config = CorpusConfig(videos=1, seconds=_FRAMES / _FPS, fps=_FPS)
    (plan,) = plan_corpus(config)
    yield from (av.VideoFrame.from_image(picture) for picture in draw_frames(plan, config))


if __name__ == "__main__":
    raise SystemExit(main())
