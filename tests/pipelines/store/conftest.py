"""Where stores of tests are: in a local folder, and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import storage


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return storage.resolve(tmp_path / "store")
    return f"{request.getfixturevalue('s3')}/stores/{request.node.name.replace('[', '-').rstrip(']')}"
