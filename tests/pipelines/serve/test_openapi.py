"""Requests made up from the endpoint's own OpenAPI document: none may make it fail, and every answer is as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.serve.endpoint import LiveEndpoint

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
)
EXAMPLES = 25


@pytest.fixture(scope="module")
def document(endpoint: LiveEndpoint) -> Any:
    status, _, body = endpoint.get("/openapi.json")
    assert status == 200
    return json.loads(body)


def test_the_document_names_every_route_and_its_key(document: Any) -> None:
    assert set(document["paths"]) >= {
        "/v1/chat/completions",
        "/v1/captions",
        "/v1/videos",
        "/v1/models",
        "/health",
        "/metrics",
    }
    assert document["security"]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert document["components"]["schemas"]["ChatRequest"]["properties"]["model"]["enum"] == ["tiny", "other"]


def test_made_up_requests_find_no_failure(endpoint: LiveEndpoint, tmp_path: Path) -> None:
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", f"{endpoint.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {endpoint.key}", "--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
        *("--generation-database", "none", "--suppress-health-check", "all"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert endpoint.get("/health")[0] == 200
