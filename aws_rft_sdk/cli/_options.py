"""What several commands share: options, and how errors become messages and exit statuses."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from aws_rft_sdk.cli._output import UNAVAILABLE
from aws_rft_sdk.errors import (
    ConfigurationError,
    CredentialsError,
    DatasetError,
    PayloadError,
    RFTError,
    ServiceFaultError,
    TransportError,
    UnavailableError,
)
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


_LIMITS = (
    click.option("--max-turns", type=int, help="Turns of each rollout. Past a limit it ends with the failure `limit`."),
    click.option("--max-total-tokens", type=int, help="Tokens of each rollout, as the policy's usage counts them."),
    click.option("--max-cost", type=float, help="Cost of each rollout. Needs --price-per-million."),
    click.option(
        "--price-per-million", type=float, nargs=2, metavar="INPUT OUTPUT", help="Prices of a million tokens."
    ),
)


def limit_options(fn: F) -> F:
    """Add the options that `RolloutLimits` is made of."""
    for option in reversed(_LIMITS):
        fn = option(fn)
    return fn


class _Unavailable(click.ClickException):
    exit_code = UNAVAILABLE


def usage_errors(fn: F) -> F:
    """Turn errors into a message and an exit status.

    2 for what the user typed or gave us, 3 for an environment that does not work (a service that cannot be reached or
    that fails, credentials that are missing or stale), 1 for other errors of this package.
    """

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        except (CredentialsError, ServiceFaultError, TransportError, UnavailableError) as error:
            raise _Unavailable(f"{type(error).__name__}: {error}") from error
        except (ConfigurationError, DatasetError, PayloadError) as error:
            raise click.UsageError(str(error)) from error
        except RFTError as error:
            raise click.ClickException(f"{type(error).__name__}: {error}") from error

    return wrapper  # type: ignore[return-value] # the same signature
