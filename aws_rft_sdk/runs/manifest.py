"""What a run is made of: written before it begins, compared when it is resumed."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from aws_rft_sdk._frozen import JSON, FrozenDict, thaw
from aws_rft_sdk._loading import module_of
from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.lifecycle.calling import Handler
from aws_rft_sdk.runs.metrics import SUCCESS_THRESHOLD

MANIFEST_FILE = "run.json"
_VERSION = 1
_MAPPINGS = ("sources", "settings", "execution")
_ENVIRONMENT_FOLDERS = ("site-packages", "dist-packages")


@dataclass(frozen=True)
class Manifest:
    """What a run is made of, and how it is carried out."""

    handler: str
    """As it was named on the command line."""
    sources: Mapping[str, str]
    """SHA-256 of each file that the handler is made of, see `handler_sources`; and of the policy's."""
    dataset: str
    """Path of the dataset."""
    dataset_sha256: str
    rows: int
    """Prompts of the dataset that are run."""
    settings: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Options that decide over results, by the names of the command line."""
    success_threshold: float = SUCCESS_THRESHOLD
    """Lowest reward that counts as a success, for those who read the records. May change when a run is resumed."""
    execution: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """Options that say how the run is carried out: engine, concurrency, retries. They may change when it is resumed."""
    created_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def _name(self) -> str:
        # Where the file stands does not matter: what is in it is among the sources.
        return self.handler if is_deployed(self.handler) else self.handler.rpartition(":")[2]

    @property
    def handler_hash(self) -> str:
        """Short digest of the handler's name and sources. Records carry it, so that a mixed run can be told apart."""
        return hashlib.sha256(json.dumps([self._name, sorted(self.sources.items())]).encode()).hexdigest()[:12]

    def write(self, folder: Path) -> None:
        """Write the manifest to a folder, as a whole or not at all."""
        mappings = {name: thaw(getattr(self, name)) for name in _MAPPINGS}
        fields = {"version": _VERSION, **asdict(self), **mappings}
        _write_atomically(folder / MANIFEST_FILE, json.dumps(fields, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder.

        Raises:
            ConfigurationError: There is none, or it is not readable.
        """
        path = folder / MANIFEST_FILE
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("version")
            if version > _VERSION:
                raise ConfigurationError(f"{path} was written by a newer version of aws-rft-sdk; upgrade the package")
            mappings = {name: dict(fields[name]) for name in _MAPPINGS if name in fields}
            known = {name: value for name, value in fields.items() if name in cls.__dataclass_fields__}
            return cls(**{**known, **mappings})
        except FileNotFoundError as error:
            raise ConfigurationError(f"{folder} holds no run to resume: there is no {MANIFEST_FILE} in it") from error
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigurationError(f"{path} cannot be read as the manifest of a run: {error}") from error

    def changes_to(self, now: Manifest) -> list[str]:
        """Say what differs between this manifest and that of the same command today, one sentence each."""
        changes = []
        if self.dataset_sha256 != now.dataset_sha256:
            changes.append(f"the dataset {now.dataset} has other content ({self.rows} rows then, {now.rows} now)")
        if self._name != now._name:
            changes.append(f"the handler was {self.handler} and is {now.handler}")
        for name in sorted({*self.settings, *now.settings}):
            then, today = self.settings.get(name), now.settings.get(name)
            if then != today:
                changes.append(f"--{name} was {_shown(then)} and is {_shown(today)}")
        return [*changes, *(f"the source file {text}" for text in _differences(self.sources, now.sources))]


def is_deployed(handler: str) -> bool:
    """Whether a handler is the address of an agent that runs elsewhere, not the name of a function."""
    return "://" in handler or handler.startswith("arn:")


def read_manifest(folder: str | Path) -> Manifest | None:
    """Return what a run was made of. Returns None if the folder has no manifest: older versions wrote none.

    Raises:
        ConfigurationError: There is a manifest that cannot be read.
    """
    return Manifest.read(Path(folder)) if (Path(folder) / MANIFEST_FILE).exists() else None


def _write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole or not at all, also when the machine fails."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*then, *now}):
        if name not in now:
            yield f"{name} is not used any more"
        elif name not in then:
            yield f"{name} was not used then"
        elif then[name] != now[name]:
            yield f"{name} has changed"


def _shown(value: JSON) -> str:
    return "not given" if value is None else str(value)


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex.

    Raises:
        ConfigurationError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def handler_sources(reference: str, handler: Handler) -> dict[str, str]:
    """Return the SHA-256 of the files that a handler is made of, as far as they are imported at the moment.

    These are the file that the reference names, the one that defines the function, and what is imported from their
    folders and below. The folder of a module in a package is that of the outermost package; what is installed in an
    environment below a folder does not count.

    Args:
        reference: How the handler was named.
        handler: The function, which another module may have made, or decorated.

    Returns:
        By their paths from the folder of the named file; those that are not in it, by their whole paths.
    """
    names = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    modules = (module_of(reference), getattr(handler, "__module__", None))
    paths: list[Path] = []
    home: Path | None = None
    for module in [sys.modules[name] for name in modules if name in sys.modules]:
        if (file := getattr(module, "__file__", None)) is None:
            continue
        beginning = Path(file).parents[(getattr(module, "__package__", None) or "").count(".")]
        folder = beginning.resolve()
        home = home or folder
        # By the text of the paths first: to resolve those of all modules takes half a second.
        beside = {name for name in names if name.startswith((str(folder), str(beginning)))}
        if folder.name in _ENVIRONMENT_FOLDERS or folder == Path(sysconfig.get_path("stdlib")).resolve():
            beside = {file}
        paths += [path for path in map(Path.resolve, map(Path, beside)) if _is_below(path, folder)]
    return {_short(path, home): file_sha256(path) for path in sorted(set(paths))}


def _is_below(path: Path, folder: Path) -> bool:
    if not path.is_relative_to(folder) or not path.is_file():
        return False
    return not any(part in _ENVIRONMENT_FOLDERS for part in path.relative_to(folder).parts)


def _short(path: Path, home: Path | None) -> str:
    return path.relative_to(home).as_posix() if home is not None and path.is_relative_to(home) else path.as_posix()
