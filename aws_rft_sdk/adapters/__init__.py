"""One module for each framework: put the rollout's headers and sampling parameters on inference calls.

The modules are loaded when they are first used, since each needs the framework it is for.
"""

from __future__ import annotations

from importlib import import_module

_MODULES = ("langchain", "openai", "runtime_model", "strands")


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
