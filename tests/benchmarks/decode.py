"""CPU time and memory of decoding one frame per second, against decord, with a check that every bit is right.

    python -m tests.benchmarks.decode [--files a.mp4 b.mkv] [--repeats 7] [--directory DIR] [--no-memory]

Without ``--files``: the sample video of the shared folder, if it is there, and a 60 s 720p H.264 file with a key frame
every 250 frames, made once and kept in DIR. All programs run in turns in this process with one decoder thread; figures
are medians of the process's CPU time, opening the file included. Peak memory is that of fresh processes, one for a
5-minute and one for a 60-minute file. Exits with 1 if a frame differs or memory grows by more than 10 %.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
from PIL import Image

from longvu_model.video import FrameSampling, decode_frames, probe, sample_indices

_SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "videos" / "longvu_example.mp4"
_RULE = FrameSampling(fps=1.0)
_MEMORY_GROWTH = 1.10


def main() -> int:
    arguments = _arguments()
    directory = Path(arguments.directory)
    directory.mkdir(parents=True, exist_ok=True)
    files = [Path(file) for file in arguments.files or []] or [
        *([_SHARED] if _SHARED.exists() else []),
        generated(directory / "generated_720p_gop250.mp4", 1280, 720, 60),
    ]
    print(_machine())
    print(
        f"{'file':28} {'frames':>6} {'ours':>7} {'batch':>7} {'iterate':>7} {'all':>7}  {'/batch':>6} {'/iter':>6}  "
        f"{'sent':>11}  exact  as decord      (CPU ms per sampled frame)"
    )
    right = all([_compare(path, arguments.repeats) for path in files])
    if arguments.memory:
        right &= _compare_memory(directory)
    return 0 if right else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.decode", description=__doc__.splitlines()[0])
    parser.add_argument("--files", nargs="+", help="videos to time instead of the usual two")
    parser.add_argument("--repeats", type=int, default=7, help="turns per program")
    parser.add_argument(
        "--directory",
        default=str(Path(tempfile.gettempdir()) / "longvu-decode-benchmark"),
        help="where generated videos are kept",
    )
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the memory figures")
    return parser.parse_args()


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    load = os.getloadavg()[0]
    return (
        f"machine: {processor}, {os.cpu_count()} CPUs, load {load:.1f}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}, "
        f"decord {_decord_version()}"
    )


def _decord_version() -> str:
    try:
        import decord
    except ImportError:
        return "absent"
    return str(decord.__version__)


def _compare(path: Path, repeats: int) -> bool:
    """Time all programs on one file, print its row; False if a frame is wrong."""
    wanted, turns = set(_indices(path).tolist()), probe(path).rotation // 90
    programs: dict[str, Callable[[], np.ndarray]] = {"ours": lambda: decode_frames(path, _RULE).frames}
    if _opens_in_decord(path):
        programs |= {"batch": lambda: _decord_batch(path), "iterate": lambda: _decord_iterate(path)}
    programs["all"] = lambda: _decode_all(path, wanted, turns)
    video = decode_frames(path, _RULE)
    exact = np.array_equal(video.frames, programs["all"]())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            start = time.process_time()
            program()
            seconds[name].append(time.process_time() - start)
    cost = {name: statistics.median(values) / len(video.indices) * 1000 for name, values in seconds.items()}
    as_decord = "batch" in cost and np.array_equal(video.frames, _decord_batch(path))
    sent = f"{video.summary.packets_sent}/{video.summary.num_frames}"
    print(
        f"{path.name[:28]:28} {len(video.indices):6} "
        + " ".join(_cell(cost, name) for name in _COLUMNS)
        + "  "
        + " ".join(_ratio(cost, name) for name in ("batch", "iterate"))
        + f"  {sent:>11}  {'yes' if exact else 'NO':5}  {'yes' if as_decord else 'no' if 'batch' in cost else '-'}"
    )
    return exact


_COLUMNS = ("ours", "batch", "iterate", "all")


def _cell(cost: dict[str, float], name: str) -> str:
    return f"{cost[name]:7.2f}" if name in cost else f"{'-':>7}"


def _ratio(cost: dict[str, float], name: str) -> str:
    return f"{cost['ours'] / cost[name]:6.2f}" if name in cost else f"{'-':>6}"


def _decode_all(path: Path, wanted: set[int], turns: int) -> np.ndarray:
    """Every frame decoded with PyAV in the plainest way, the wanted ones converted and turned by quarter turns."""
    pictures = []
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(container.decode(stream)):
            if number in wanted:
                pictures.append(np.rot90(frame.to_ndarray(format="rgb24"), turns).copy())
    return np.stack(pictures)


def _indices(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
        return sample_indices(total, float(stream.average_rate), _RULE)


def _opens_in_decord(path: Path) -> bool:
    if _decord_version() == "absent":
        return False
    import decord

    try:
        decord.VideoReader(str(path), num_threads=1)
    except decord.DECORDError:
        return False
    return True


def _decord_batch(path: Path) -> np.ndarray:
    """As the published quick start reads: every ``round(avg_fps)``-th frame in one batch."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(list(range(0, len(reader), round(reader.get_avg_fps())))).asnumpy()


def _decord_iterate(path: Path) -> np.ndarray:
    """As the published demo reads: every frame in turn, the sampled ones kept."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    step = round(reader.get_avg_fps())
    return np.stack([frame.asnumpy() for number, frame in enumerate(reader) if number % step == 0])


def generated(path: Path, width: int, height: int, seconds: int, rate: int = 30, gop: int = 250) -> Path:
    """An H.264 file in x264's default settings (B-frames): a camera moving over a texture, and a sprite."""
    if path.exists():
        return path
    print(f"writing {path} ...", file=sys.stderr)
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        stream.codec_context.thread_count = 1
        for picture in _pictures(width, height, seconds * rate):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    return part.rename(path)


def _pictures(width: int, height: int, count: int) -> Iterator[np.ndarray]:
    """Pictures (height * 3 / 2, width) uint8 in planar YUV 4:2:0, a new texture every ten seconds."""
    planes: list[np.ndarray] = []
    for number in range(count):
        if number % 300 == 0:
            planes = [_texture(number + k, width * 2 // k, height * 2 // k) for k in (1, 2, 2)]
        x = int(width / 4 * (1 + np.sin(number / 90))) * 2
        y = int(height / 4 * (1 + np.cos(number / 70))) * 2
        luma, blue, red = (
            plane[y // k : y // k + height // k, x // k : x // k + width // k].copy()
            for plane, k in zip(planes, (1, 2, 2), strict=True)
        )
        left, top = 7 * number % (width - 100) // 2 * 2, 3 * number % (height - 100) // 2 * 2
        luma[top : top + 100, left : left + 100] = number * 3 % 256
        yield np.concatenate([luma, blue.reshape(-1, width), red.reshape(-1, width)])


def _texture(seed: int, width: int, height: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(40, 216, (height // 16, width // 16), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    return (smooth + random.integers(-6, 7, smooth.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)


def _compare_memory(directory: Path) -> bool:
    minute = generated(directory / "minute_180p.mp4", 320, 176, 60)
    short, long = (
        peak_memory_kb(repeated(minute, directory / f"minutes_{minutes}.mp4", minutes), "fps:1") for minutes in (5, 60)
    )
    print(
        f"peak memory, frames taken in blocks of 16: 5 min {short / 1024:.1f} MB, 60 min {long / 1024:.1f} MB, "
        f"ratio {long / short:.3f}"
    )
    return long <= short * _MEMORY_GROWTH


def peak_memory_kb(path: Path, rule: str) -> int:
    """Peak resident memory of a fresh process that takes all blocks of a video, in KiB."""
    command = [sys.executable, "-c", _PEAK, str(path), rule]
    root = Path(__file__).resolve().parents[2]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout)


# Not ru_maxrss: a new process starts with its parent's.
_PEAK = """
import sys
from longvu_model.video import iter_frame_blocks
stream = iter_frame_blocks(sys.argv[1], sys.argv[2], block_frames=16)
assert sum(len(block.indices) for block in stream) == len(stream.indices)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def repeated(source: Path, path: Path, times: int) -> Path:
    """``source`` shown ``times`` times in a row, its packets copied."""
    if path.exists():
        return path
    part = path.with_suffix(".part.mp4")
    with av.open(str(part), "w") as container:
        out = None
        for repeat in range(times):
            with av.open(str(source)) as copied:
                stream = copied.streams.video[0]
                out = out or container.add_stream_from_template(stream)
                offset = repeat * stream.duration
                for packet in copied.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, out
                        container.mux(packet)
    return part.rename(path)


if __name__ == "__main__":
    sys.exit(main())
