"""Builds the zip of a reward Lambda: the function's file, its neighbours, and those of our modules that it needs."""

from __future__ import annotations

import ast
import importlib.metadata
import io
import keyword
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import aws_rft_sdk
from aws_rft_sdk import rewards
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.rewards.lambdas import CONCURRENCY, Envelope

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

lambda_handler = reward_lambda(
    {module}.{name}, floor={floor!r}, concurrency={concurrency!r}, envelope={envelope!r}
)
'''
RUNTIME = f"python3.{sys.version_info.minor}"
"""Lambda's name of the Python that runs here, so that a function behaves as it was tested."""
_LIBC = {"x86_64": "x86_64", "arm64": "aarch64"}
"""Lambda's names of the architectures, and those of wheels."""
_PIP_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """A zip that was built."""

    path: Path
    files: tuple[str, ...]
    zip_bytes: int
    unzipped_bytes: int
    needs: tuple[str, ...]
    """Packages that the code imports and the zip does not have."""

    @property
    def fits(self) -> bool:
        """Whether Lambda takes it by direct upload: 50 MB zipped, 250 MB unzipped, layers not counted."""
        return self.zip_bytes <= MAX_ZIP_BYTES and self.unzipped_bytes <= MAX_UNZIPPED_BYTES


def build_package(
    file: str | Path,
    name: str,
    out: str | Path,
    *,
    floor: float = 0.0,
    concurrency: int = CONCURRENCY,
    envelope: Envelope = "list",
    with_deps: bool = False,
    runtime: str = RUNTIME,
    architecture: str = "x86_64",
) -> Package:
    """Write a zip with a Lambda function that scores with a reward. The same input gives the same bytes.

    Code that is imported by a computed name is not found.

    Args:
        file: The Python file of the reward.
        name: Its name in the file, dotted for something inside of a class.
        out: The zip, overwritten.
        floor: Score of a row that cannot be judged. `reward_lambda` describes this and the next two.
        concurrency: Rows at once.
        envelope: Form of the reply.
        with_deps: Whether pip adds the packages that Lambda lacks, in the versions that are installed here. Otherwise
            they are only named.
        runtime: The Python that pip chooses wheels for, by Lambda's name, for example "python3.12".
        architecture: The processor that pip chooses wheels for: "x86_64" or "arm64".

    Raises:
        ConfigurationError: The file is not there, is no Python, or has a name that cannot be imported or would hide
            another module; pip finds no wheels; or the zip cannot be written.
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
    entry = _ENTRY.format(module=file.stem, name=name, floor=floor, concurrency=concurrency, envelope=envelope)
    content["lambda_function.py"] = entry.encode()
    if with_deps and (lacking := _lacking(needs)):
        content, needs = {**_wheels(lacking, runtime, architecture), **content}, set()
    return write_package(out, content, needs)


def _lacking(needs: Iterable[str]) -> list[str]:
    return sorted(set(needs) - sys.stdlib_module_names - IN_LAMBDA)


def _wheels(modules: Iterable[str], runtime: str, architecture: str) -> dict[str, bytes]:
    """Return the files of packages, and of all that they need, as pip installs them for Lambda. Nothing is compiled.

    The pip of this Python is used with its settings, so `PIP_INDEX_URL` and `PIP_FIND_LINKS` count.
    """
    wanted, libc = [_requirement(module) for module in modules], _LIBC[architecture]
    platforms = [f"--platform=manylinux2014_{libc}"]
    if int(runtime.rpartition(".")[2]) >= 12:  # Amazon Linux 2023, with glibc 2.34
        platforms += [f"--platform=manylinux_2_28_{libc}", f"--platform=manylinux_2_34_{libc}"]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--only-binary=:all:", f"--python-version={runtime.removeprefix('python')}", "--implementation=cp"]
        command = [sys.executable, "-m", "pip", "install", "--no-compile", "--no-input", "--quiet", "--target", folder]
        try:
            subprocess.run(  # noqa: S603 - the requirements are names of installed packages
                [*command, *options, *platforms, *wanted],
                check=True,
                capture_output=True,
                text=True,
                timeout=_PIP_SECONDS,
            )
        except subprocess.CalledProcessError as error:
            raise ConfigurationError(
                f"pip cannot install {', '.join(wanted)} for {runtime} on {architecture}: {error.stderr.strip()[-800:]}"
            ) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigurationError(f"pip cannot install {', '.join(wanted)}: {error}") from error
        files = [path for path in Path(folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _requirement(module: str) -> str:
    """Return what pip calls the package of a module, with the version that is installed here."""
    names = importlib.metadata.packages_distributions().get(module)
    if not names:
        return module
    return f"{names[0]}=={importlib.metadata.version(names[0]).partition('+')[0]}"


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
    missing = tuple(_lacking(needs))
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
