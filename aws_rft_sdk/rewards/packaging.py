"""Builds the zip of a reward Lambda: the function's file, its neighbours, and those of our modules that it needs."""

from __future__ import annotations

import ast
import io
import keyword
import sys
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import aws_rft_sdk
from aws_rft_sdk import rewards
from aws_rft_sdk.errors import ConfigurationError

HANDLER = "lambda_function.lambda_handler"
"""What to enter as the handler of the function; also Lambda's default."""
MAX_ZIP_BYTES = 50 * 10**6
MAX_UNZIPPED_BYTES = 250 * 10**6
IN_LAMBDA = {"boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil"}
"""Packages that the Python runtimes of Lambda bring along."""

_ROOT = Path(aws_rft_sdk.__file__).parent
_LAZY = {_ROOT / "__init__.py", _ROOT / "rewards/__init__.py"}
"""Packages that resolve their names on use: their own imports are followed name by name."""
_ON_USE = {
    _ROOT / "rewards/code.py": ("aws_rft_sdk.rewards._sandbox", None),
    _ROOT / "rewards/runners.py": ("aws_rft_sdk.rewards._confinement", None),
    _ROOT / "rewards/symbolic.py": ("math_verify", None),
    _ROOT / "rewards/structured.py": ("jsonschema", None),
}
"""What our files need when they are used, without an import that can be seen."""
_ENTRY = '''"""Scores rows with {name} of {module}.py."""

import {module}
from aws_rft_sdk.rewards.lambdas import reward_lambda

lambda_handler = reward_lambda({module}.{name}, floor={floor!r})
'''


@dataclass(frozen=True)
class Package:
    """A zip that was built."""

    path: Path
    files: tuple[str, ...]
    zip_bytes: int
    unzipped_bytes: int
    needs: tuple[str, ...]
    """Packages that the code imports and the zip does not have: to be added as a Lambda layer."""

    @property
    def fits(self) -> bool:
        """Whether Lambda takes it by direct upload: 50 MB zipped, 250 MB unzipped, layers not counted."""
        return self.zip_bytes <= MAX_ZIP_BYTES and self.unzipped_bytes <= MAX_UNZIPPED_BYTES


def build_package(file: str | Path, name: str, out: str | Path, *, floor: float = 0.0) -> Package:
    """Write a zip with a Lambda function that scores with a reward. The same input gives the same bytes.

    Packages other than ours are not added, only named. Code that is imported by a computed name is not found.

    Args:
        file: The Python file of the reward.
        name: Its name in the file, dotted for something inside of a class.
        out: The zip, overwritten.
        floor: Score of a row that cannot be judged.

    Raises:
        ConfigurationError: The file is not there, is no Python, or has a name that cannot be imported or would hide
            another module; or the zip cannot be written.
    """
    file = Path(file)
    is_name = file.stem.isidentifier() and not keyword.iskeyword(file.stem)
    if not is_name or file.stem == "lambda_function" or file.stem in sys.stdlib_module_names:
        raise ConfigurationError(f"{file.name} cannot be imported under its name in a Lambda function; rename it")
    if not file.is_file():
        raise ConfigurationError(f"there is no file {file}")
    content, needs = closure(["aws_rft_sdk.rewards.lambdas"], file)
    for folder in {folder.as_posix() for arcname in content for folder in PurePosixPath(arcname).parents} - {"."}:
        content.setdefault(f"{folder}/__init__.py", b"")  # in a zip, Python finds no folder without one
    content["lambda_function.py"] = _ENTRY.format(module=file.stem, name=name, floor=floor).encode()
    return write_package(out, content, needs)


def write_package(out: str | Path, content: Mapping[str, bytes], needs: Iterable[str]) -> Package:
    """Write files, by their names in the zip, as a zip, overwriting it. The same content gives the same bytes.

    What Lambda has is left out of `Package.needs`. Raises `ConfigurationError` if the zip cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(content):
            info = zipfile.ZipInfo(name)  # dated 1980
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3  # Unix, on every system
            info.external_attr = 0o644 << 16  # Lambda's user has to be able to read it
            archive.writestr(info, content[name])
    try:
        Path(out).write_bytes(buffer.getvalue())
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error}") from error
    missing = tuple(sorted(set(needs) - sys.stdlib_module_names - IN_LAMBDA))
    size = sum(map(len, content.values()))
    return Package(Path(out), tuple(sorted(content)), buffer.getbuffer().nbytes, size, missing)


def _beside(root: Path, top: str) -> list[Path]:
    """Return the files of a module or package in a folder, with or without `__init__.py`; none if it is elsewhere."""
    file = root / f"{top}.py"
    return [file] if file.is_file() else sorted((root / top).rglob("*.py"))


def _imports(path: Path) -> list[tuple[str, str | None]]:
    """Return the modules that a file imports, each with the name imported from it, None for the module itself."""
    try:
        nodes = list(ast.walk(ast.parse(path.read_bytes(), path.name)))
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read as Python: {error}") from error
    plain = [(alias.name, None) for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return [*plain, *((node.module or "", alias.name) for node in froms for alias in node.names)]


def _ours(module: str, name: str | None) -> list[Path]:
    """Return the files of our modules that hold an imported name."""
    homes = {key: f"aws_rft_sdk.rewards.{home}" for key, home in rewards._HOMES.items()}
    known = {"aws_rft_sdk": aws_rft_sdk._HOMES, "aws_rft_sdk.rewards": homes}.get(module, {})
    found = module if name in (None, "*") else f"{module}.{name}"
    if name in known:
        modules = {known[name]}
    else:  # of the whole package nobody can say which names will be used
        modules = set(homes.values()) if found == "aws_rft_sdk.rewards" else {module, found}
    return [path for path in map(_path_of, modules) if path]


def closure(wanted: Iterable[str], file: Path | None = None) -> tuple[dict[str, bytes], set[str]]:
    """Return files with all that they import of ours and from beside them, and the packages of others they import.

    The files stand under their names in a zip. `wanted` are full names of our modules, `file` is one of somebody else.
    """
    waiting = [*([file] if file else []), *(path for module in wanted for path in _ours(module, None))]
    seen, needs = {_ROOT / "__init__.py"}, set[str]()
    while waiting:
        if (path := waiting.pop()) in seen:
            continue
        seen.add(path)
        imports = [] if path in _LAZY else [*_imports(path), *([_ON_USE[path]] if path in _ON_USE else [])]
        for module, name in imports:
            top = module.partition(".")[0]
            beside = [] if file is None or _ROOT in path.parents else _beside(file.parent, top)
            found = _ours(module, name) if top == _ROOT.name else beside
            waiting += found
            needs |= set() if found else {top}
    ours = {path for path in seen if _ROOT in path.parents}
    packages = {folder / "__init__.py" for path in ours for folder in path.parents if _ROOT in folder.parents}
    names = {path: path.relative_to(_ROOT.parent) for path in ours | packages}
    names |= {path: path.relative_to(file.parent) for path in seen - ours if file}
    return {name.as_posix(): path.read_bytes() for path, name in names.items()}, needs


def _path_of(module: str) -> Path | None:
    path = _ROOT.parent.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
