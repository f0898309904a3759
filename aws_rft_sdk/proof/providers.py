"""Notices connections to model providers, and refuses them while a proof runs.

Python tells an audit hook of every name that is looked up and every connection that is made, before it happens. A hook
cannot be removed, so there is one for the process, which does nothing while no proof listens. Libraries that bring
their own network code (gRPC, the AWS CRT) do not tell it.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

_HOSTS = (
    # Amazon Bedrock: public, FIPS, VPC endpoints, its OpenAI-compatible API.
    "bedrock-runtime.*.amazonaws.com*",
    "bedrock-runtime-fips.*.amazonaws.com*",
    "bedrock-runtime.*.api.aws",
    "*.bedrock-runtime*.vpce.amazonaws.com",
    "bedrock-mantle.*.api.aws",
    "api.openai.com",
    "*.api.openai.com",
    "*.openai.azure.com",
    "*.services.ai.azure.com",
    "*.models.ai.azure.com",
    "models.inference.ai.azure.com",
    "models.github.ai",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "aiplatform.googleapis.com",
    "*-aiplatform.googleapis.com",
    "api.mistral.ai",
    "api.cohere.com",
    "api.cohere.ai",
    "openrouter.ai",
    "api.groq.com",
    "api.together.xyz",
    "api.together.ai",
    "api.fireworks.ai",
    "api.deepseek.com",
    "api.deepinfra.com",
    "api.x.ai",
    "api.perplexity.ai",
    "api.cerebras.ai",
    "api.sambanova.ai",
    "api.replicate.com",
    "api.writer.com",
    "api.llama.com",
    "api.ai21.com",
    "api.moonshot.ai",
    "api.moonshot.cn",
    "dashscope*.aliyuncs.com",
    "integrate.api.nvidia.com",
    "router.huggingface.co",
    "api-inference.huggingface.co",
    "*.endpoints.huggingface.cloud",
    "ollama.com",
)
_OLLAMA_PORT = 11434


class ModelProviderRefused(RuntimeError):
    """A rollout of a proof tried to reach a model provider. No connection was made."""


Listener = Callable[[str, int | None, bool], None]
"""Gets host, port, and whether this is a connection, as opposed to a name that is looked up. What it raises, the
caller of the socket gets."""

_listener: Listener | None = None
_is_installed = False


def is_provider(host: str, port: int | None) -> bool:
    """Whether a language model answers there. Ollama is known by its port on this machine."""
    if is_loopback(host):
        return port == _OLLAMA_PORT
    name = host.rstrip(".").lower()
    return any(fnmatchcase(name, pattern) for pattern in _HOSTS)


def is_loopback(host: str) -> bool:
    """Whether a name or an address stands for this machine."""
    if host in ("", "localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of lookups and connections of all threads for the body of a `with`."""
    global _listener, _is_installed
    if not _is_installed:
        sys.addaudithook(_audit)
        _is_installed = True
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    listener = _listener
    if listener is None:
        return
    if event == "socket.getaddrinfo":
        listener(_text(arguments[0]), _number(arguments[1]), False)
    elif event == "socket.connect" and isinstance(arguments[1], tuple):  # else a path on this machine
        listener(_text(arguments[1][0]), _number(arguments[1][1]), True)


def _text(host: object) -> str:
    return host.decode("latin-1") if isinstance(host, bytes) else "" if host is None else str(host)


def _number(port: object) -> int | None:
    text = _text(port)
    return int(text) if text.isdigit() else None
