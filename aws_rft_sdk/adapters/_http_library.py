"""The HTTP library that the installed `openai` is built on: httpx for openai 2, httpx2 for openai 3."""

from __future__ import annotations

import functools
import importlib
import os
import ssl
from typing import TYPE_CHECKING

import openai

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.settings import CA_BUNDLE_VARIABLES, ca_bundle

if TYPE_CHECKING:
    import httpx

    http = httpx
else:
    # Reached through openai's own exports, so that both versions work.
    http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


def tls_context() -> ssl.SSLContext:
    """Return the TLS context with the certificates that the settings name.

    Raises:
        ConfigurationError: A variable names certificates that do not exist or cannot be used.
    """
    return _ssl_context(ca_bundle())


@functools.cache
def _ssl_context(bundle: str | None) -> ssl.SSLContext:
    # Loading the certificates takes longer than a turn; the context itself may be shared by all loops.
    if bundle is None:
        return http.create_ssl_context()
    try:
        if os.path.isdir(bundle):
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except OSError as error:  # SSLError is one
        raise ConfigurationError(
            f"the CA bundle {bundle} cannot be used: {error}. {', '.join(CA_BUNDLE_VARIABLES)} name it"
        ) from error
