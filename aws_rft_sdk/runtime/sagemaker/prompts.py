"""Reads a channel of a job's document."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aws_rft_sdk.datasets import read_prompts
from aws_rft_sdk.errors import ConfigurationError, DatasetError
from aws_rft_sdk.runtime.sagemaker.objects import NoSuchObject, Objects


class ChannelError(Exception):
    """A channel cannot be read. The text says why."""


def read_channel(document: Mapping[str, Any], name: str, objects: Objects) -> list[str] | None:
    """Return the prompts of a channel, or None if the job has no such channel.

    An S3 URI names one object, or a prefix of several, which are read in the order of their keys.

    Raises:
        ChannelError: There is no such object, or it is no file of prompts.
    """
    source = next((c["DataSource"] for c in document["InputDataConfig"] if c["ChannelName"] == name), None)
    if source is None:
        return None
    if "S3DataSource" not in source:
        arn = source["DatasetSource"]["DatasetArn"]
        raise ChannelError(
            f"channel {name}: LocalJobs has no dataset registry, so {arn} cannot be read. Name an S3 URI"
        )
    uri = source["S3DataSource"]["S3Uri"]
    prompts: list[str] = []
    for found in _objects_of(uri, objects):
        prompts += _read(found, objects.get(found), name)
    if not prompts:
        raise ChannelError(f"channel {name}: there is no object {uri}. Upload the file first")
    return prompts


def _objects_of(uri: str, objects: Objects) -> list[str]:
    try:
        objects.get(uri)
    except NoSuchObject:
        return [found for found in objects.list(uri) if not found.endswith("/")]
    return [uri]


def _read(uri: str, content: bytes, channel: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="aws-rft-") as folder:
        path = Path(folder) / Path(urlsplit(uri).path).name
        path.write_bytes(content)
        try:
            return list(read_prompts(path))
        except (DatasetError, ConfigurationError) as error:
            text = str(error).replace(str(path), uri)
            raise ChannelError(f"channel {channel}: {text}") from None
