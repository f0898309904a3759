from __future__ import annotations

import inspect
import pickle
import re

import pytest

from aws_rft_sdk import errors


def every_error() -> list[type[errors.RFTError]]:
    found: list[type[errors.RFTError]] = [errors.RFTError]
    for cls in found:
        found.extend(sub for sub in cls.__subclasses__() if sub not in found and sub.__module__ == errors.__name__)
    return found


ERRORS = every_error()
each_error = pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)


@each_error
def test_error_when_pickled_then_every_argument_survives(cls: type[errors.RFTError]) -> None:
    samples = {"status": 418, "code": "Teapot", "request_id": "r-1", "body": "short", "attempts": 4}
    samples |= {"retry_after_seconds": 2.5, "field": "metadata.jobArn"}
    names = [p.name for p in inspect.signature(cls).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    given = {name: samples.get(name, f"a {name}") for name in names}
    error = cls("what failed", **given)  # type: ignore[arg-type]
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert str(again) == str(error)
    assert {name: getattr(again, name) for name in names} == given


@each_error
def test_error_when_made_without_arguments_then_it_can_be(cls: type[errors.RFTError]) -> None:
    error = cls()
    assert error.retry_safe in (True, False, None)
    assert error.retry_after_seconds is None


def test_error_module_when_walked_then_nothing_else_is_raised_from_it() -> None:
    defined = {value for value in vars(errors).values() if inspect.isclass(value)}
    assert defined == set(ERRORS)
    assert all(name.endswith("Error") for name in vars(errors) if inspect.isclass(getattr(errors, name)))


@each_error
def test_error_tree_when_drawn_in_the_docstring_then_it_is_the_real_one(cls: type[errors.RFTError]) -> None:
    lines = (errors.__doc__ or "").splitlines()
    row = next(i for i, line in enumerate(lines) if re.search(rf"(^ {{4}}|─ ){cls.__name__}\b", line))
    if cls is errors.RFTError:
        return
    depth = lines[row].index(cls.__name__)
    parent = next(line for line in reversed(lines[:row]) if re.search(r"\w+Error", line) and _column(line) < depth)
    assert re.search(r"\w+Error", parent)[0] == cls.__bases__[0].__name__  # type: ignore[index] # it has one


def _column(line: str) -> int:
    match = re.search(r"[A-Z]\w+Error", line)
    return match.start() if match else len(line)


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.ConfigurationError, ValueError),
        (errors.CredentialsError, ValueError),
        (errors.UntrustedEndpointError, ValueError),
        (errors.PayloadError, ValueError),
        (errors.RewardError, ValueError),
        (errors.NoActiveRolloutError, RuntimeError),
        (errors.ServiceTimeoutError, TimeoutError),
        (errors.ServiceConnectionError, ConnectionError),
        (errors.RolloutTimeoutError, TimeoutError),
    ],
)
def test_error_when_it_refines_a_builtin_then_it_is_caught_as_one(
    cls: type[errors.RFTError], builtin: type[Exception]
) -> None:
    with pytest.raises(builtin):
        raise cls("x")


@pytest.mark.parametrize(
    ("cls", "retry_safe"),
    [
        (errors.ThrottledError, True),
        (errors.CredentialsError, True),
        (errors.ServiceTimeoutError, None),
        (errors.ServiceConnectionError, None),
        (errors.ServiceFaultError, None),
        (errors.InvalidRequestError, False),
        (errors.QuotaExceededError, False),
        (errors.AccessDeniedError, False),
        (errors.TrajectoryNotFoundError, False),
        (errors.TrajectoryConflictError, False),
        (errors.RewardError, False),
        (errors.NoTrackedTurnsError, False),
    ],
)
def test_retry_safe_when_asked_then_ambiguous_outcomes_say_nobody_knows(
    cls: type[errors.RFTError], retry_safe: bool | None
) -> None:
    assert cls().retry_safe is retry_safe
