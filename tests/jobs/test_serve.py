"""What `longvu serve` says when it is ready."""

from __future__ import annotations

import json
import subprocess

import pytest

from jobs.serve import welcome
from pipelines.serve.config import ServeConfig

# In place of curl: the words that it is given, as JSON.
_CURL = """curl() { python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@"; }\n"""


@pytest.mark.parametrize(
    ("key", "sent"), [("key-of-this-run", "key-of-this-run"), (None, "key-of-the-user")], ids=["made", "configured"]
)
def test_its_commands_can_be_pasted_into_a_shell(key: str | None, sent: str) -> None:
    config = ServeConfig.model_validate({"models": [{"name": "film-model", "path": "tiny"}], "port": 8123})
    script = _CURL + "\n".join(line for line in welcome(config, key).splitlines() if "curl " in line)
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "LONGVU_API_KEY": "key-of-the-user"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    upload, chat = map(json.loads, done.stdout.splitlines())
    assert upload[0] == "http://127.0.0.1:8123/v1/videos"
    assert upload[1:3] == chat[1:3] == ["-H", f"Authorization: Bearer {sent}"]
    assert json.loads(chat[-1])["model"] == "film-model"
