"""User errors end with one line and exit code 2; defects keep their traceback."""

from __future__ import annotations

import signal

import pytest

from longvu_model.video.errors import NotAVideo
from pipelines.config import ConfigError
from pipelines.errors import JobStopped, UserError, run_cli
from pipelines.storage import StorageError
from pipelines.store import StoreError


@pytest.mark.parametrize("error", [UserError, ConfigError, StorageError, StoreError, NotAVideo])
def test_user_errors(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> int:
        raise error("x=3: too many; use 2")

    assert run_cli(main, []) == 2
    assert capsys.readouterr().err == "error: x=3: too many; use 2\n"


def test_defects_are_not_hidden() -> None:
    def main(argv: object) -> int:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        run_cli(main, [])


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> int:
        raise KeyboardInterrupt

    assert run_cli(main, []) == 130
    assert "continues" in capsys.readouterr().err


def test_a_stopped_job_has_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    def main(argv: object) -> int:
        raise JobStopped("/store: no space left; run again")

    assert run_cli(main, []) == 4
    assert capsys.readouterr().err == "error: /store: no space left; run again\n"


def test_sigterm_ends_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    ended = []

    def main(argv: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            ended.append("children, runs")
        return 0

    before = signal.getsignal(signal.SIGTERM)
    assert run_cli(main, []) == 143
    assert ended and "continues" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_exit_code_passes_through() -> None:
    assert run_cli(lambda argv: len(argv), ["a", "b", "c"]) == 3
