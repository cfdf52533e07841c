"""A unit's row: exact, one row, views and no copies."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa

from pipelines.extract.carrier import pack, unpack


def test_round_trip_through_a_slice_and_a_file() -> None:
    arrays = {
        "frames": np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3),
        "times": np.array([0.5, 1.5]),
        "flags": np.array([True, False]),
        "none": np.empty((0, 5), np.float32),
        "strided": np.arange(10)[::2],
    }
    header = {"unit_id": "u", "members": [{"message": 'quote " and ü', "fps": 29.97, "video_id": None}]}
    table = pa.concat_tables(
        [pack({"other": 1}, {name: array[:0] for name, array in arrays.items()}), pack(header, arrays)]
    )
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    received = pa.ipc.open_stream(sink.getvalue()).read_all()
    got_header, got = unpack(received.slice(1, 1))
    assert got_header == header
    assert got.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got[name].dtype == array.dtype and np.array_equal(got[name], array)


def test_no_copies() -> None:
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    _, arrays = unpack(pack({}, {"frames": frames}))
    assert np.shares_memory(arrays["frames"], frames)
