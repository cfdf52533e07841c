"""Which model a run uses: a digest of its content that the next start finds without reading gigabytes again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipelines import storage

_CACHE = "checkpoint-digests.json"


def model_digest(folder: Path, workdir: Path) -> str:
    """32 hex digits of a checkpoint's files; remembered in the workdir as long as names, sizes and times stay."""
    state = hashlib.blake2b(digest_size=16)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = file.stat()
        state.update(f"{file.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    uri, identity = storage.resolve(workdir / _CACHE), f"{folder.resolve()} {state.hexdigest()}"
    known: dict[str, str] = json.loads(storage.read_bytes(uri)) if storage.exists(uri) else {}
    if identity not in known:
        from pipelines.video_models.loading import checkpoint_digest

        known[identity] = checkpoint_digest(folder)
        storage.write_bytes(uri, json.dumps(known, indent=1).encode())
    return known[identity]
