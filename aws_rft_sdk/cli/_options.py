"""What several commands share: options, loading functions, and how errors become messages."""

from __future__ import annotations

import functools
import math
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import click

from aws_rft_sdk._loading import load_callable
from aws_rft_sdk.errors import ConfigurationError, DatasetError, PayloadError, RFTError
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD

F = TypeVar("F", bound=Callable[..., Any])


def finite(ctx: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse nan and inf: the callback of an option."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is no finite number", ctx, option)
    return value


success_threshold_option = click.option(
    "--success-threshold",
    type=float,
    callback=finite,
    help=f"Lowest reward that counts as a success.  [default: the run's, {SUCCESS_THRESHOLD:g} for a new run]",
)


def load_function(reference: str) -> Callable[..., Any]:
    """Load a function that an argument names.

    Raises:
        ConfigurationError: It is not there, or importing its module failed; the traceback goes to stderr.
    """
    try:
        return load_callable(reference)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # a script without a guard must not end the command as a success
        traceback.print_exc()
        raise ConfigurationError(f"importing {reference} failed: {type(error).__name__}: {error}") from error


def usage_errors(fn: F) -> F:
    """Turn errors about what the user gave us into a message and exit status 2, other errors of ours into status 1."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except (ConfigurationError, DatasetError, PayloadError) as error:
            raise click.UsageError(str(error)) from error
        except RFTError as error:
            raise click.ClickException(f"{type(error).__name__}: {error}") from error

    return wrapper  # type: ignore[return-value] # the same signature
