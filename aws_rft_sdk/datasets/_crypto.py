"""AES-GCM through the cryptography package, which only this module imports."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Any

from aws_rft_sdk.errors import ConfigurationError, DatasetError

_NONCE_BYTES = 12
_KEY_BYTES = (16, 24, 32)


def _aes(key: bytes | str) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise ConfigurationError("encrypted prompts need cryptography; install aws-rft-sdk[encryption]") from error
    return AESGCM(_key(key))


def _key(key: bytes | str) -> bytes:
    if isinstance(key, str):
        try:
            key = base64.b64decode(key, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ConfigurationError("the key is no base64; make one with new_key()") from error
    if len(key) not in _KEY_BYTES:
        raise ConfigurationError(f"the key has {len(key)} bytes; AES takes 16, 24 or 32")
    return key


def new_key() -> str:
    """Return a new key of 256 random bits as URL-safe base64. Keep it where the handler's secrets are."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def seal(text: str, context: str, key: bytes | str) -> str:
    """Encrypt `text`; only the same `context`, which stays in the open, opens it again. No two results are equal.

    Raises:
        ConfigurationError: The key is malformed, or cryptography is not installed.
    """
    nonce = os.urandom(_NONCE_BYTES)
    sealed: bytes = _aes(key).encrypt(nonce, text.encode("utf-8", "surrogatepass"), context.encode())
    return base64.b64encode(nonce + sealed).decode()


def unseal(sealed: str, context: str, key: bytes | str) -> str:
    """Decrypt what `seal` made.

    Raises:
        ConfigurationError: The key is malformed, or cryptography is not installed.
        DatasetError: The key is another one, or the text or its context was changed.
    """
    aes = _aes(key)
    try:
        data = base64.b64decode(sealed, validate=True)
        opened: bytes = aes.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context.encode())
    except Exception as error:  # InvalidTag, and whatever text that was never sealed leads to
        raise DatasetError("the hidden part of the prompt does not open: another key, or a changed prompt") from error
    return opened.decode("utf-8", "surrogatepass")
