"""Merging chunks, against the plain loops over rows that say what it means."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.store.features import add_digests
from pipelines.store.schema import FAILED, OK, TRUNCATED, VIDEOS
from pipelines.store.videos import MERGED, merge_chunks

LISTS = ("frame_index", "pts_s", "similarity", "kept", "stored")


def merge_slowly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    tries: dict[Any, dict[Any, dict[int, dict[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        chunks = tries[row["source"], row["version"]][row["retry"] or 0, -row["num_chunks"]]
        other = chunks.setdefault(row["chunk"], row)
        if other["status"] == FAILED and row["status"] != FAILED:
            chunks[row["chunk"]] = row
    merged = []
    for _, cuts in sorted(tries.items()):
        whole = {cut: chunks for cut, chunks in cuts.items() if len(chunks) == -cut[1]}
        if whole:
            cut = max(whole, key=lambda cut: (whole[cut][0]["status"] != FAILED, cut))
            merged.append(_merge([chunk for _, chunk in sorted(whole[cut].items())]))
    return merged


def _merge(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    good: list[dict[str, Any]] = []
    bad: dict[str, Any] = {}
    for chunk in chunks:
        if chunk["status"] != FAILED:
            good.append(chunk)
        if chunk["status"] != OK:
            bad = chunk
            break
    parts = good or chunks[:1]
    row = {name: parts[0].get(name) for name in MERGED.names}
    row["units"] = [part["unit_id"] for part in parts]
    row["status"] = OK if not bad else TRUNCATED if good else FAILED
    row |= {name: bad.get(name) for name in ("error", "message", "log_tail")}
    row |= {name: [value for part in parts for value in part[name] or []] for name in LISTS}
    row |= {name: sum(part[name] or 0 for part in parts) for name in ("num_sampled", "num_kept", "num_stored")}
    row["attempts"] = max(chunk["attempts"] or 0 for chunk in chunks)
    row["decoder"] = ", ".join(dict.fromkeys(part["decoder"] for part in parts if part["decoder"])) or None
    for name in ("dinov2_digest", "siglip_digest"):
        digests = [part[name] for part in parts if part[name]]
        row[name] = add_digests(digests) if digests else None
    return row


@st.composite
def tables(draw: st.DrawFn) -> list[dict[str, Any]]:
    keys = st.tuples(
        st.sampled_from("ab"),
        st.sampled_from("12"),
        st.sampled_from([None, 0, 1]),
        st.integers(1, 3),
        st.integers(0, 2),
    )
    rows = []
    for number, (source, version, retry, num_chunks, chunk) in enumerate(draw(st.lists(keys, max_size=24))):
        status = draw(st.sampled_from([OK, OK, TRUNCATED, FAILED]))
        frames = 0 if status == FAILED else draw(st.integers(0, 3))
        row: dict[str, Any] = dict.fromkeys(VIDEOS.names)
        row |= {"source": source, "version": version, "retry": retry, "num_chunks": num_chunks, "status": status}
        row |= {"chunk": chunk % num_chunks, "unit_id": f"u{number}", "video_id": source, "codec": f"c{number}"}
        row |= {"error": None if status == OK else f"e{number}", "attempts": draw(st.sampled_from([None, 1, 2]))}
        row |= {"decoder": draw(st.sampled_from([None, "pyav", "decord"])), "num_sampled": frames}
        row |= {name: [number] * frames for name in LISTS[:3]} | {name: [True] * frames for name in LISTS[3:]}
        row["dinov2_digest"] = draw(st.sampled_from([None, f"{number:032x}"]))
        rows.append(row)
    return rows


@given(tables(), st.integers(0, 24))
def test_merging_is_what_the_loops_say(rows: list[dict[str, Any]], cut: int) -> None:
    table = pa.concat_tables([pa.Table.from_pylist(part, VIDEOS) for part in (rows[:cut], rows[cut:])])
    merged = merge_chunks(table)
    assert merged.schema == MERGED
    assert merged.to_pylist() == merge_slowly(rows)
    few = merge_chunks(table.select([name for name in table.column_names if name not in LISTS]))
    assert few.to_pylist() == merged.select(few.column_names).to_pylist()
