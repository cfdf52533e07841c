"""Which keys are admitted, and that mistakes in their list are told without repeating them."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pipelines.errors import UserError
from pipelines.serve.auth import Keys, load_keys, new_key
from pipelines.serve.config import AuthSettings

VARIABLE = "LONGVU_TEST_KEYS"


def settings(**fields: object) -> AuthSettings:
    return AuthSettings.model_validate({"environment": VARIABLE, **fields})


def test_a_new_key_is_admitted_by_its_entry_only() -> None:
    key, entry = new_key()
    keys = load_keys(settings(entries=(f"me={entry}", new_key()[1])))
    found = keys.find(f"Bearer {key}")
    assert found is not None and found.name == "me"
    assert key not in entry and key.removeprefix("lv-") not in entry
    basic = base64.b64encode(f"anybody:{key}".encode()).decode()
    assert keys.find(f"basic {basic}") == found


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic !!!", "Basic bWU6d3Jvbmc=", "Digest x", "\udc80 \udc80"],
)
def test_other_headers_are_not(header: str | None) -> None:
    assert load_keys(settings(entries=(new_key()[1],))).find(header) is None
    assert Keys(()).find(header) is None


def test_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, one), (second, two), (third, three) = new_key(), new_key(), new_key()
    path = tmp_path / "keys"
    path.write_text(f"# for people\n{one}  # me\n\nyou={two}\n")
    monkeypatch.setenv(VARIABLE, f" {three} ,")
    keys = load_keys(settings(file=path))
    assert len(keys) == 3
    assert all(keys.find(f"Bearer {key}") for key in (first, second, third))


def test_mistakes_do_not_repeat_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "lv-written-here-by-mistake"
    path = tmp_path / "keys"
    path.write_text(secret)
    for wrong in (settings(file=path), settings(entries=(secret,))):
        with pytest.raises(UserError, match="new-key") as told:
            load_keys(wrong)
        assert secret not in str(told.value)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match="no API key"):
        load_keys(settings())
    with pytest.raises(UserError, match="cannot be read"):
        load_keys(settings(file=tmp_path / "none"))
    assert not load_keys(settings(required=False))
