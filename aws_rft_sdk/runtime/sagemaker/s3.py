"""S3 in path style, as far as data sets and results of jobs need it. Every bucket exists."""

from __future__ import annotations

import base64
import hashlib
import re
import uuid
import zlib
from collections.abc import Callable
from datetime import datetime, timezone
from email.utils import format_datetime

from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.sagemaker.messages import Answer, Asked, xml_answer
from aws_rft_sdk.runtime.sagemaker.objects import NoSuchObject, ObjectRow, Objects

_MAX_KEYS = 1000
_CHECKSUMS: dict[str, Callable[[bytes], bytes]] = {
    "x-amz-checksum-crc32": lambda content: zlib.crc32(content).to_bytes(4, "big"),
    "x-amz-checksum-sha1": lambda content: hashlib.sha1(content).digest(),  # noqa: S324 - S3's checksum
    "x-amz-checksum-sha256": lambda content: hashlib.sha256(content).digest(),
    "content-md5": lambda content: hashlib.md5(content).digest(),  # noqa: S324 - S3's checksum
}
"""Checksums that are verified. Others are not in the standard library."""
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class S3:
    """Answers calls of S3.

    Args:
        objects: Where they are kept.
        region: What GetBucketLocation answers.
    """

    def __init__(self, objects: Objects, region: str) -> None:
        self._objects, self._region = objects, region

    def answer(self, asked: Asked) -> Answer:  # noqa: D102 - see Service
        bucket, _, key = asked.path.lstrip("/").partition("/")
        if not bucket:
            return xml_answer("ListAllMyBucketsResult", {"Buckets": {}})
        if not _BUCKET.fullmatch(bucket):
            raise Refusal(400, f"The bucket name {bucket!r:.80} is not valid", code="InvalidBucketName")
        if key:
            return self._object(asked, f"s3://{bucket}/{key}")
        if asked.method == "GET" and "location" in asked.query:
            return xml_answer("LocationConstraint", "" if self._region == "us-east-1" else self._region)
        if asked.method == "GET":
            return self._list(asked, bucket)
        if asked.method in ("HEAD", "PUT"):
            return Answer(headers=(("x-amz-bucket-region", self._region),))
        raise _unserved(asked)

    def refuse(self, refusal: Refusal) -> Answer:  # noqa: D102 - see Service
        error = {"Code": refusal.code, "Message": refusal.message}
        return xml_answer("Error", error, status=refusal.status)

    def _object(self, asked: Asked, uri: str) -> Answer:
        if asked.query.keys() & {"acl", "tagging", "versionId"}:
            raise _unserved(asked)
        if asked.query.keys() & {"uploads", "uploadId"}:
            return self._multipart(asked, uri)
        if asked.method == "PUT" and "x-amz-copy-source" not in asked.headers:
            return self._put(asked, uri)
        if asked.method == "DELETE":
            self._objects.delete(uri)
            return Answer(status=204)
        if asked.method not in ("GET", "HEAD"):
            raise _unserved(asked)
        try:
            content = self._objects.get(uri)
        except NoSuchObject:
            raise Refusal(404, "The specified key does not exist.", code="NoSuchKey") from None
        row = next(row for row in self._objects.rows(uri) if row.uri == uri)
        told = (
            ("etag", _etag(content)),
            ("last-modified", format_datetime(datetime.fromtimestamp(int(row.at), timezone.utc), usegmt=True)),
            ("accept-ranges", "bytes"),
        )
        if asked.method == "HEAD":
            return Answer(status=200, type=row.type, headers=(*told, ("content-length", str(len(content)))))
        match = re.fullmatch(r"bytes=([0-9]*)-([0-9]*)", asked.headers.get("range", ""))
        if match is None or match[0] == "bytes=-":
            return Answer(content, 200, row.type, told)
        begin, end = _span(match[1], match[2], len(content))
        return Answer(
            content[begin : end + 1],
            206,
            row.type,
            (*told, ("content-range", f"bytes {begin}-{end}/{len(content)}")),
        )

    def _multipart(self, asked: Asked, uri: str) -> Answer:
        """Answer a call of an upload in parts. The parts are objects of a place that no bucket has."""
        upload_id = asked.query.get("uploadId") or uuid.uuid4().hex
        parts = f"upload://{upload_id}/"
        bucket, _, key = uri[len("s3://") :].partition("/")
        if asked.method == "POST" and "uploads" in asked.query:
            self._objects.put(parts, uri.encode())
            return xml_answer("InitiateMultipartUploadResult", {"Bucket": bucket, "Key": key, "UploadId": upload_id})
        found = self._objects.list(parts)
        if not found or self._objects.get(parts) != uri.encode():
            raise Refusal(404, "The specified upload does not exist.", code="NoSuchUpload")
        number = asked.query.get("partNumber", "")
        if asked.method == "PUT" and re.fullmatch("[0-9]{1,5}", number):
            return self._put(asked, f"{parts}{int(number):05d}")
        if asked.method not in ("POST", "DELETE"):
            raise _unserved(asked)
        content = b"".join(self._objects.get(part) for part in found[1:])
        for part in found:
            self._objects.delete(part)
        if asked.method == "DELETE":
            return Answer(status=204)
        self._objects.put(uri, content)
        return xml_answer("CompleteMultipartUploadResult", {"Bucket": bucket, "Key": key, "ETag": _etag(content)})

    def _put(self, asked: Asked, uri: str) -> Answer:
        content, trailers = read_content(asked)
        given = {**asked.headers, **trailers}
        for name, make in _CHECKSUMS.items():
            if name in given and base64.b64encode(make(content)).decode() != given[name]:
                raise Refusal(400, f"The {name} you specified did not match what we received", code="BadDigest")
        if asked.headers.get("if-none-match") == "*" and uri in self._objects.list(uri):
            raise Refusal(
                412, "At least one of the pre-conditions you specified did not hold", code="PreconditionFailed"
            )
        self._objects.put(uri, content, asked.headers.get("content-type", "binary/octet-stream"))
        return Answer(headers=(("etag", _etag(content)),))

    def _list(self, asked: Asked, bucket: str) -> Answer:
        query = asked.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        text = query.get("max-keys", str(_MAX_KEYS))
        if not text.isdigit():
            raise Refusal(400, "max-keys is not a whole number", code="InvalidArgument")
        after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
        start = len(f"s3://{bucket}/")
        rows: list[ObjectRow] = []
        folders: list[str] = []
        found = [row for row in self._objects.rows(f"s3://{bucket}/{prefix}") if row.uri[start:] > after]
        last, is_cut = "", False
        for row in found:
            key = row.uri[start:]
            folder = _folder(key, prefix, delimiter)
            if folder and (folder in folders or after.startswith(folder)):
                continue
            if len(rows) + len(folders) >= min(int(text), _MAX_KEYS):
                is_cut = True
                break
            last = folder or key
            if folder:
                folders.append(folder)
            else:
                rows.append(row)
        listed = [
            {
                "Key": row.uri[start:],
                "LastModified": datetime.fromtimestamp(row.at, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "ETag": _etag(self._objects.get(row.uri)),
                "Size": row.size,
                "StorageClass": "STANDARD",
            }
            for row in rows
        ]
        content = {
            "Name": bucket,
            "Prefix": prefix,
            "KeyCount": len(rows) + len(folders),
            "MaxKeys": text,
            "IsTruncated": str(is_cut).lower(),
            "Contents[]": listed,
            "CommonPrefixes[]": [{"Prefix": folder} for folder in folders],
        }
        if is_cut:
            content |= {"NextContinuationToken": last, "NextMarker": last}
        return xml_answer("ListBucketResult", content)


def read_content(asked: Asked) -> tuple[bytes, dict[str, str]]:
    """Return the object in the body of a call, and the trailers behind it.

    Raises:
        Refusal: 400. The body is cut into chunks, and the chunks are malformed.
    """
    if "aws-chunked" not in asked.headers.get("content-encoding", ""):
        return asked.body, {}
    pieces, rest = [], asked.body
    while True:
        head, _, rest = rest.partition(b"\r\n")
        size = head.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size) or len(rest) < int(size, 16):
            raise Refusal(400, "The chunks of the body are malformed", code="IncompleteBody")
        if int(size, 16) == 0:
            break
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    content = b"".join(pieces)
    wanted = asked.headers.get("x-amz-decoded-content-length", str(len(content)))
    if wanted != str(len(content)):
        raise Refusal(400, f"The body has {len(content)} bytes, and was announced with {wanted}", code="IncompleteBody")
    lines = (line.partition(":") for line in rest.decode("latin-1").split("\r\n") if ":" in line)
    return content, {name.strip().lower(): value.strip() for name, _, value in lines}


def _folder(key: str, prefix: str, delimiter: str) -> str:
    """Return the common prefix that a listing shows for a key. Returns "" if the listing shows the key itself."""
    name, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
    return f"{prefix}{name}{delimiter}" if found else ""


def _span(first: str, last: str, size: int) -> tuple[int, int]:
    begin = int(first) if first else max(size - int(last), 0)
    end = min(int(last), size - 1) if first and last else size - 1
    if begin > end:
        raise Refusal(416, "The requested range is not satisfiable", code="InvalidRange")
    return begin, end


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324 - S3's ETag


def _unserved(asked: Asked) -> Refusal:
    what = f"{asked.method} {'?' + next(iter(asked.query)) if asked.query else ''}".strip()
    text = f"LocalJobs does not serve {what:.80}. It serves PUT, uploads in parts, GET, HEAD, DELETE and lists"
    return Refusal(501, text, code="NotImplemented")
