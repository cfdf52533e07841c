"""How a unit travels between actors: one Arrow row with a JSON header and raw arrays.

A row cannot be split by Ray Data, so a unit stays whole; its arrays are written and read without a copy, which
pickled Python objects or Ray's tensor columns would need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

_HEADER = "header"


def pack(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> pa.Table:
    """One row: the header, and one ``large_binary`` column per array."""
    arrays = arrays or {}
    described = {name: {"shape": array.shape, "dtype": array.dtype.str} for name, array in arrays.items()}
    columns = {_HEADER: pa.array([json.dumps({"values": header, "arrays": described})], pa.large_string())}
    for name, array in arrays.items():
        data = pa.py_buffer(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        offsets = pa.py_buffer(np.array([0, array.nbytes], np.int64))
        columns[name] = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])
    return pa.table(columns)


def unpack(table: pa.Table) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read :func:`pack` back; the arrays are read-only views of the row's memory."""
    assert table.num_rows == 1, table.num_rows
    header = json.loads(table[_HEADER][0].as_py())
    arrays = {}
    for name, described in header["arrays"].items():
        column = table[name].chunk(0)
        start, end = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + 2]
        data = column.buffers()[2]
        raw = np.frombuffer(data, np.uint8)[start:end] if data is not None else np.empty(0, np.uint8)
        arrays[name] = raw.view(described["dtype"]).reshape(described["shape"])
    return header["values"], arrays
