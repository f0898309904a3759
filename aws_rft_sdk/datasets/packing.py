"""Structure in a prompt cell: the handler gets all of it, the model what is visible.

The service passes the prompt column on as text. A cell is a JSON object in that text whose key `visible` names the keys
that a model may see. Encrypted, all other keys are in `sealed`, bound to the visible ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aws_rft_sdk._frozen import JSON, FrozenDict
from aws_rft_sdk.datasets._crypto import seal, unseal
from aws_rft_sdk.errors import ConfigurationError, DatasetError

_RESERVED = ("visible", "sealed")
_QUESTIONS = ("question", "prompt", "input_seq")
"""Keys that hold the question in cells of other makers, which name nothing visible."""


@dataclass(frozen=True)
class Packed:
    """A prompt cell, unpacked. As a string it is the question, so that a slip shows the model nothing hidden."""

    visible: Mapping[str, JSON] = field(default_factory=FrozenDict)
    """What a model may see."""
    hidden: Mapping[str, JSON] = field(default_factory=FrozenDict, repr=False)
    """What only the handler may see."""

    @property
    def question(self) -> JSON:
        """The question: text, or a list of messages. None when the cell has none."""
        return next((self.visible[name] for name in _QUESTIONS if name in self.visible), None)

    @property
    def ground_truth(self) -> JSON:
        """What a reward compares with, `reward_spec.ground_truth` included. None when the cell has none."""
        if "ground_truth" in self.hidden:
            return self.hidden["ground_truth"]
        spec = self.hidden.get("reward_spec")
        return spec.get("ground_truth") if isinstance(spec, Mapping) else None

    def __str__(self) -> str:
        question = self.question
        return question if isinstance(question, str) else json.dumps(question, ensure_ascii=False)


def pack(
    *,
    question: JSON,
    ground_truth: JSON = None,
    visible: Sequence[str] = ("question",),
    key: bytes | str | None = None,
    **fields: JSON,
) -> str:
    """Write a prompt cell.

    Args:
        question: What the model is asked: text, or a list of messages.
        ground_truth: What a reward compares with. None leaves it out.
        visible: Names of the fields that the model may see; the question is among them in any case.
        key: Encrypts what is not visible: 16, 24 or 32 bytes, or as many in base64. None: it stands in the open, in the
            dataset and in the traces of a job.
        **fields: Whatever else the handler needs.

    Returns:
        JSON text. Equal for equal arguments, unless encrypted.

    Raises:
        ConfigurationError: ground_truth is to be visible, a visible name is no field, a name is reserved, the key is
            malformed, or cryptography is not installed.
        DatasetError: A value is not JSON.
    """
    named: dict[str, JSON] = {"question": question, **fields}
    if ground_truth is not None:
        named["ground_truth"] = ground_truth
    return pack_fields(named, [visible] if isinstance(visible, str) else list(visible), key)


def pack_fields(named: Mapping[str, JSON], visible: Sequence[str], key: bytes | str | None) -> str:
    """Write a prompt cell of fields of any name, the question among them, as `pack` does."""
    if reserved := [name for name in _RESERVED if name in named]:
        raise ConfigurationError(f"a packed field cannot be called {reserved[0]!r}")
    if "ground_truth" in visible:
        raise ConfigurationError("the ground truth is not for the model to see")
    if unknown := [name for name in visible if name not in named]:
        raise ConfigurationError(f"visible names {unknown[0]!r}, and there is no such field")
    shown = {name: value for name, value in named.items() if name == "question" or name in visible}
    hidden = {name: value for name, value in named.items() if name not in shown}
    cell: dict[str, JSON] = {**shown}
    if key is None:
        cell.update(hidden)
    cell["visible"] = list(shown)
    if key is not None:
        cell["sealed"] = seal(_dump(hidden), _context(json.loads(_dump(shown))), key)
    return _dump(cell)


def _context(shown: Mapping[str, JSON]) -> str:
    """Return what a sealed part is bound to: the visible fields, as they are read."""
    return json.dumps(shown, sort_keys=True)


def _dump(value: JSON) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"a packed value is not JSON ({error})") from error


def unpack(cell: str, *, key: bytes | str | None = None) -> Packed:
    """Read a prompt cell.

    Cells of other makers are read too: of a JSON object that names nothing visible, only `question`, `prompt` or
    `input_seq` is visible.

    Args:
        cell: The prompt, verbatim.
        key: The key that it was packed with; None when it was packed without.

    Raises:
        DatasetError: The cell is no JSON object, it is encrypted and no key is given or the other way round, the key is
            another one, or the cell was changed.
        ConfigurationError: The key is malformed, or cryptography is not installed.
    """
    packed, sealed = _unpack(cell, key)
    if key is not None and not sealed:
        raise DatasetError("a key was given, and the prompt is not encrypted; a changed prompt?")
    return packed


def unpack_any(cell: str, *, key: bytes | str | None = None) -> Packed:
    """Read a prompt cell as `unpack` does, with a key for those cells alone that are encrypted."""
    return _unpack(cell, key)[0]


def _unpack(cell: str, key: bytes | str | None) -> tuple[Packed, bool]:
    try:
        fields = json.loads(cell)
    except (TypeError, ValueError, RecursionError) as error:
        raise DatasetError(f"the prompt is no packed cell: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise DatasetError(f"the prompt is no packed cell: a JSON {type(fields).__name__}, not an object")
    names, sealed = fields.pop("visible", None), fields.pop("sealed", None)
    if names is None:
        names = [name for name in _QUESTIONS if name in fields][:1]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DatasetError("the prompt is no packed cell: `visible` is no list of names")
    shown = {name: value for name, value in fields.items() if name in names and name != "ground_truth"}
    hidden = {name: value for name, value in fields.items() if name not in shown}
    if sealed is not None:
        if key is None:
            raise DatasetError("the hidden part of the prompt is encrypted, and no key was given")
        if hidden:
            raise DatasetError(f"a changed prompt: it is encrypted, and {next(iter(hidden))!r} stands in the open")
        hidden = json.loads(unseal(str(sealed), _context(shown), key))
    return Packed(FrozenDict(shown), FrozenDict(hidden)), sealed is not None
