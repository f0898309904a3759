"""Finds a function by its name on a command line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from aws_rft_sdk.errors import ConfigurationError

_being_loaded: ContextVar[str | None] = ContextVar("rft_being_loaded", default=None)


def load_callable(reference: str) -> Callable[..., Any]:
    """Load a function, as `load_object` does.

    Raises:
        ConfigurationError: The reference has another form, or names a file, a module or a function that is not there.
        Exception: Whatever importing the module raises.
    """
    target = load_object(reference)
    if not callable(target):
        raise ConfigurationError(f"{reference} is a {type(target).__name__}, not a function")
    return target  # type: ignore[no-any-return] # callable() has just said so


def load_object(reference: str) -> Any:
    """Load what a reference names, of any type.

    The folder of a file is put on `sys.path`, as Python does for a script, so that it can import its neighbours.

    Args:
        reference: `path/to/file.py:function` or `package.module:function`; the function may be dotted (`Class.method`).

    Raises:
        ConfigurationError: The reference has another form, or names a file, a module or a function that is not there.
        Exception: Whatever importing the module raises.
    """
    location, separator, name = reference.rpartition(":")
    if not separator or not location or not name:
        raise ConfigurationError(
            f"{reference!r} names no function; expected path/to/file.py:function or module:function"
        )
    before = _being_loaded.set(location)
    try:
        module = _load_file(Path(location)) if location.endswith(".py") else _load_module(location)
    finally:
        _being_loaded.reset(before)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            raise ConfigurationError(f"{location} has no {name!r}")
        target = getattr(target, part)
    return target


def check_not_loading() -> None:
    """Refuse to begin a run while a handler's module is imported: each child of that run would begin another one.

    Raises:
        ConfigurationError: A module that `load_callable` imports has called this.
    """
    if location := _being_loaded.get():
        raise ConfigurationError(
            f"{location} begins a run while it is imported for its handler. Put that call below "
            'if __name__ == "__main__":'
        )


def load_function(reference: str, load: Callable[[str], Any] = load_callable) -> Any:
    """Load a function that a user names, or an object of any type with `load=load_object`.

    Raises:
        ConfigurationError: It is not there, or importing its module failed. The message ends with the traceback.
    """
    try:
        return load(reference)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:  # a script without a guard must not end the command as a success
        raise ConfigurationError(
            f"importing {reference} failed: {type(error).__name__}: {error}\n\n{traceback.format_exc().rstrip()}"
        ) from error


def reference_of(fn: Callable[..., Any]) -> str:
    """Return the name of a function, as `load_callable` reads it where that is possible: not for local functions."""
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    module, name = named.__module__, named.__qualname__
    file = getattr(sys.modules.get(module), "__file__", None)
    # A file can be loaded from every working directory. Modules of a package need their package.
    return f"{file}:{name}" if file and "." not in module and Path(file).suffix == ".py" else f"{module}:{name}"


def absolute_reference(reference: str) -> str:
    """Return a reference that means the same in a process with another working directory."""
    location, separator, name = reference.rpartition(":")
    return f"{Path(location).resolve()}{separator}{name}" if location.endswith(".py") else reference


def module_of(reference: str) -> str | None:
    """Return the name of the module that a reference names; None for a file that is not loaded."""
    location = reference.rpartition(":")[0]
    if not location.endswith(".py"):
        return location
    file = str(Path(location).resolve())
    loaded = list(sys.modules.items())
    return next((name for name, module in loaded if getattr(module, "__file__", None) == file), None)


def file_of(reference: str) -> Path | None:
    """Return the file that a reference names, or the file of the module that it names. The module is not loaded.

    Returns None for a module without a file.

    Raises:
        ConfigurationError: There is no such file or module.
    """
    location = reference.rpartition(":")[0]
    if location.endswith(".py"):
        path = Path(location).resolve()
        if not path.is_file():
            raise ConfigurationError(f"there is no file {path}")
        return path
    _import_from_here()
    try:
        spec = importlib.util.find_spec(location)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise ConfigurationError(f"there is no module {location}")
    return Path(spec.origin).resolve() if spec.has_location and spec.origin else None


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise ConfigurationError(f"there is no file {path}")
    loaded = sys.modules.get(path.stem)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Under its own name where that is free, so that neighbours which import each other share one module.
    name = path.stem if loaded is None else f"{path.stem}_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_from_here() -> None:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _load_module(name: str) -> ModuleType:
    _import_from_here()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ConfigurationError(f"there is no module {name}") from error
