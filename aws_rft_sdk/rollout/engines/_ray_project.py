"""What a Ray cluster is sent, so that its nodes can load the handler: the project, and which packages it needs."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path

from aws_rft_sdk._loading import file_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runs.records import RECORDS_FILE

LIMIT_BYTES = 100 * 1024 * 1024
"""Of a project before it is compressed. Each node unpacks the project, and Ray's limit is 512 MiB."""
LIMIT_FILES = 10_000
IGNORE_FILE = ".rayignore"
_ROOT_MARKS = ("pyproject.toml", "setup.py", ".git")
_SKIPPED_NAMES = frozenset({".git", ".hg", "__pycache__", "node_modules", ".venv", "venv", ".tox", ".nox"})
_SKIPPED_MARKS = ("pyvenv.cfg", RECORDS_FILE, "CACHEDIR.TAG")
"""A folder that holds one of these files is a virtual environment, the folder of a run, or a cache."""
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_SHOWN_FILES = 3


@dataclass(frozen=True)
class Project:
    """The folder that the handler belongs to."""

    root: Path
    reference: str
    """The handler, as for `load_callable` in a process whose working directory is `root`."""
    import_paths: tuple[str, ...]
    """Folders for `sys.path`, relative to `root`."""

    @classmethod
    def of(cls, reference: str) -> Project | None:
        """Return the project of a handler: the nearest folder around it with a pyproject.toml, setup.py or .git.

        Without such a folder it is the one that the handler is imported from. Returns None for a module that is
        installed, since each node needs it installed too.

        Raises:
            ConfigurationError: There is no such file or module.
        """
        file = file_of(reference)
        if file is None or _INSTALLED & set(file.parts):
            return None
        location, _, name = reference.rpartition(":")
        is_file = location.endswith(".py")
        above = file.parent.parent if file.name == "__init__.py" else file.parent
        start = file.parent if is_file else above.joinpath(*[".."] * location.count(".")).resolve()
        marked = (folder for folder in (start, *start.parents) if any((folder / mark).exists() for mark in _ROOT_MARKS))
        root = next(marked, start)
        if is_file:
            reference = f"{file.relative_to(root).as_posix()}:{name}"
        known = [start, *(Path(entry or os.curdir).resolve() for entry in sys.path)]
        inside = [
            path for path in known if path.is_relative_to(root) and path.is_dir() and not _INSTALLED & {*path.parts}
        ]
        return cls(root, reference, tuple(dict.fromkeys(path.relative_to(root).as_posix() for path in inside)))

    def files(self) -> list[Path]:
        """Return the files to send. Virtual environments, caches, .git, folders of runs and `.rayignore` are left out.

        Raises:
            ConfigurationError: They are too many or too large. The message names the largest and says what to do.
        """
        files: list[Path] = []
        sizes: dict[Path, int] = {}
        for file in self._walk():
            files.append(file)
            sizes[file] = file.stat().st_size
            if len(files) > LIMIT_FILES:
                raise ConfigurationError(f"{self._too_large(f'more than {LIMIT_FILES:,} files')}")
        total = sum(sizes.values())
        if total > LIMIT_BYTES:
            largest = sorted(files, key=lambda file: -sizes[file])[:_SHOWN_FILES]
            shown = ", ".join(f"{file.relative_to(self.root)} ({_mib(sizes[file])})" for file in largest)
            raise ConfigurationError(f"{self._too_large(_mib(total))} The largest files are {shown}.")
        return files

    def pack(self, archive: Path) -> None:
        """Write the files to a zip file, for `working_dir` of a runtime environment.

        Raises:
            ConfigurationError: See `files`.
        """
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
            for file in self.files():
                packed.write(file, file.relative_to(self.root))

    def _walk(self) -> Iterator[Path]:
        ignored = self._ignored()
        for folder, folders, names in os.walk(self.root):
            here = Path(folder)
            folders[:] = sorted(
                name for name in folders if not _is_skipped(here / name) and not self._is_in(ignored, here / name)
            )
            files = (here / name for name in sorted(names))
            yield from (file for file in files if file.is_file() and not self._is_in(ignored, file))

    def _ignored(self) -> list[str]:
        file = self.root / IGNORE_FILE
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return [line.strip().strip("/") for line in lines if line.strip() and not line.startswith("#")]

    def _is_in(self, patterns: list[str], path: Path) -> bool:
        inside = path.relative_to(self.root).as_posix()
        return any(fnmatch(inside, pattern) or fnmatch(path.name, pattern) for pattern in patterns)

    def _too_large(self, size: str) -> str:
        return (
            f"the handler's project {self.root} has {size}, and a cluster is sent at most {_mib(LIMIT_BYTES)} in "
            f"{LIMIT_FILES:,} files. Name what the handler does not need in {self.root / IGNORE_FILE}, one pattern a "
            "line, for example data or *.parquet."
        )


def read_requirements(path: Path) -> list[str]:
    """Return the packages that a requirements.txt or the dependencies of a pyproject.toml name.

    Raises:
        ConfigurationError: The file cannot be read, or has a line that means nothing on another machine.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            toml = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
            return list(toml.loads(text)["project"].get("dependencies", ()))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"--requirements {path} cannot be read as a requirements.txt or pyproject.toml: {error!r}"
        ) from error
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    wanted = [line for line in lines if line and not line.startswith("#")]
    for line in wanted:
        if line.startswith(("-r", "-c", "-e", "--requirement", "--constraint", "--editable", ".", "/", "file:")):
            raise ConfigurationError(
                f"{path} has the line {line!r}, which names a file of this machine. Nodes of the cluster lack that "
                "file. Give --requirements a file that names packages only"
            )
    return wanted


def _is_skipped(folder: Path) -> bool:
    return folder.name in _SKIPPED_NAMES or any((folder / mark).exists() for mark in _SKIPPED_MARKS)


def _mib(size: int) -> str:
    return f"{size / 1024 / 1024:.0f} MiB"
