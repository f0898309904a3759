"""The objects of S3 that `LocalJobs` keeps in its database."""

from __future__ import annotations

from typing import NamedTuple

from aws_rft_sdk.runtime._database import Database


class NoSuchObject(Exception):
    """There is no object with this URI. The text is the URI."""


class ObjectRow(NamedTuple):
    """What is known of an object without reading it."""

    uri: str
    size: int
    type: str
    at: float


class Objects:
    """Objects by their S3 URIs.

    Args:
        database: Has the table `objects`.

    Concurrency: safe from any thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, uri: str) -> bytes:
        """Return the content of an object.

        Raises:
            NoSuchObject: There is none.
        """
        with self._database.transaction() as db:
            row = db.execute("SELECT content FROM objects WHERE uri = ?", (uri,)).fetchone()
            if row is None:
                raise NoSuchObject(uri)
            return bytes(row[0])

    def put(self, uri: str, content: bytes, content_type: str = "binary/octet-stream") -> None:
        """Store an object, or replace it."""
        with self._database.transaction() as db:
            values = (uri, content, content_type, self._database.now())
            db.execute("INSERT OR REPLACE INTO objects (uri, content, type, at) VALUES (?, ?, ?, ?)", values)

    def delete(self, uri: str) -> None:
        """Forget an object. Repeating is safe."""
        with self._database.transaction() as db:
            db.execute("DELETE FROM objects WHERE uri = ?", (uri,))

    def rows(self, prefix: str) -> list[ObjectRow]:
        """Return what is known of the objects whose URIs begin with a text, in the order of their URIs."""
        with self._database.transaction() as db:
            query = "SELECT uri, LENGTH(content), type, at FROM objects WHERE SUBSTR(uri, 1, ?) = ? ORDER BY uri"
            return [ObjectRow(*row) for row in db.execute(query, (len(prefix), prefix))]

    def list(self, prefix: str) -> list[str]:
        """Return the URIs that begin with a text, in their order."""
        return [row.uri for row in self.rows(prefix)]
