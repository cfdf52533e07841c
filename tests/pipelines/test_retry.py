"""What passes is tried again; what does not is raised at once."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pipelines.retry import passing, retrying
from pipelines.storage import StorageError


def failing(times: int, error: Exception) -> tuple[Callable[[], str], list[int]]:
    calls: list[int] = []

    def action() -> str:
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return action, calls


def test_a_passing_error_is_tried_again() -> None:
    action, calls = failing(2, OSError(errno.EIO, "shaky"))
    assert retrying(action, attempts=3, first_wait_s=0.001) == "done" and len(calls) == 3


def test_the_last_attempt_raises() -> None:
    action, calls = failing(3, TimeoutError("slow"))
    with pytest.raises(TimeoutError, match="slow"):
        retrying(action, attempts=3, first_wait_s=0.001)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "error", [FileNotFoundError("gone"), PermissionError("no"), OSError(errno.ENOSPC, "full"), ValueError("ours")]
)
def test_others_are_raised_at_once(error: Exception) -> None:
    action, calls = failing(1, error)
    with pytest.raises(type(error)):
        retrying(action, first_wait_s=0.001)
    assert len(calls) == 1


def test_the_cause_of_a_storage_error_counts() -> None:
    from botocore.exceptions import EndpointConnectionError

    def caused_by(cause: Exception) -> StorageError:
        error = StorageError("s3://bucket/key: no answer")
        error.__cause__ = cause
        return error

    assert passing(caused_by(EndpointConnectionError(endpoint_url="http://nowhere")))
    assert passing(caused_by(OSError(errno.EBUSY, "slow down")))
    assert not passing(caused_by(OSError(errno.EINVAL, "bad request")))
    assert not passing(caused_by(FileNotFoundError("no such bucket")))
