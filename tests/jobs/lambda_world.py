"""AWS on loopback: moto's server for Lambda, IAM and STS, and a Lambda that runs the zips that were uploaded.

Less kind than moto: a new role cannot be assumed at first, a new function is pending at first, and any call can fail.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import boto3
import moto.backends
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

REGION = "us-west-2"
ACCOUNT = "123456789012"
_FUNCTION = re.compile(r"/2015-03-31/functions/(?P<name>[^/]+)(?P<rest>/.*)?$")
_OPERATIONS = {
    ("GET", None): "GetFunction",
    ("DELETE", None): "DeleteFunction",
    ("GET", "/configuration"): "GetFunctionConfiguration",
    ("PUT", "/configuration"): "UpdateFunctionConfiguration",
    ("PUT", "/code"): "UpdateFunctionCode",
    ("GET", "/policy"): "GetPolicy",
    ("POST", "/policy"): "AddPermission",
    ("POST", "/invocations"): "Invoke",
}
_BESIDE = ("boto3", "botocore", "s3transfer", "jmespath", "urllib3", "dateutil", "six")
"""Packages that Lambda's Python brings along."""
_RUN = """
import json, sys
from types import SimpleNamespace

sys.path += sys.argv[1:3]
event = json.load(sys.stdin)
context = SimpleNamespace(get_remaining_time_in_millis=lambda: int(sys.argv[4]) * 1000)
try:
    module, _, name = sys.argv[3].rpartition(".")
    reply, failed = getattr(__import__(module), name)(event, context), False
except Exception as error:
    reply, failed = {"errorMessage": str(error), "errorType": type(error).__name__}, True
print(json.dumps([reply, failed]), file=open(sys.argv[5], "w"))
"""


class World:
    """Serves AWS at `url`.

    Attributes:
        calls: Operations that were called, in order.
        failing: Operations that are refused, with the number of times.
        assume_failures: How often Lambda does not know the role of a new function yet.
        pending: How often a function is in `state`: not ready yet.
        reply: What every function replies. None to run it.
    """

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._session, self._clients = boto3.session.Session(), dict[str, Any]()
        self._beside = tempfile.TemporaryDirectory()
        for package in _BESIDE:
            origin = Path(str(importlib.util.find_spec(package).origin))  # type: ignore[union-attr] # they are there
            origin = origin.parent if origin.name == "__init__.py" else origin
            Path(self._beside.name, origin.name).symlink_to(origin)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.reset()

    def reset(self) -> None:
        self.calls: list[str] = []
        self.failing: dict[str, int] = {}
        self.assume_failures = 0
        self.pending = 0
        self.state = {"State": "Pending", "LastUpdateStatus": "InProgress"}
        self.reply: Any = None
        moto.backends.get_backend("lambda").reset()
        moto.backends.get_backend("iam").reset()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._beside.cleanup()

    def client(self, service: str) -> Any:
        keys = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret"}
        if service not in self._clients:  # loading the model of a service takes longer than most calls
            self._clients[service] = self._session.client(service, endpoint_url=self.url, region_name=REGION, **keys)
        return self._clients[service]

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        operation, name = _operation(environ, body)
        self.calls.append(operation)
        if self.failing.get(operation, 0) > 0:
            self.failing[operation] -= 1
            words = f"User: arn:aws:iam::{ACCOUNT}:user/u is not authorized to perform: {operation}"
            return _refuse(start, 403, "AccessDeniedException", words, is_xml=body.startswith(b"Action="))
        if operation in ("CreateFunction", "UpdateFunctionConfiguration") and self.assume_failures > 0:
            self.assume_failures -= 1
            words = "The role defined for the function cannot be assumed by Lambda."
            return _refuse(start, 400, "InvalidParameterValueException", words)
        if operation == "GetFunctionConfiguration" and self.pending > 0:
            self.pending -= 1
            return _send(start, 200, {"FunctionName": name, **self.state})
        if operation == "Invoke":
            return self._invoke(start, name, json.loads(body))
        return self._app(environ, start)

    def _invoke(self, start: Callable[..., Any], name: str, event: Any) -> Iterable[bytes]:
        name = unquote(name).rpartition(":function:")[2]
        if self.reply is not None:
            return _send(start, 200, self.reply)
        function = moto.backends.get_backend("lambda")[ACCOUNT][REGION].get_function(name)
        reply, failed = self.run(function.code_bytes, event, function)
        return _send(start, 200, reply, {"X-Amz-Function-Error": "Unhandled"} if failed else {})

    def run(self, zip_file: bytes, event: Any, function: Any = None) -> tuple[Any, bool]:
        """Run a zip's handler as Lambda does, with the standard library, the zip and boto3.

        Returns the reply, and whether the handler failed.
        """
        keys = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": REGION}
        own = getattr(function, "environment_vars", {})
        handler = getattr(function, "handler", "lambda_function.lambda_handler")
        seconds = getattr(function, "timeout", 300)
        with tempfile.TemporaryDirectory() as folder:
            zip_path, reply = Path(folder, "code.zip"), Path(folder, "reply.json")
            zip_path.write_bytes(zip_file)
            arguments = [str(zip_path), self._beside.name, handler, str(seconds), str(reply)]
            command = [sys.executable, "-I", "-S", "-c", _RUN, *arguments]
            text = json.dumps(event)
            done = subprocess.run(command, input=text, text=True, capture_output=True, env={**keys, **own}, timeout=100)
            assert done.returncode == 0, done.stderr
            result, failed = json.loads(reply.read_text())
        return result, failed


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


def _operation(environ: dict[str, Any], body: bytes) -> tuple[str, str]:
    if match := _FUNCTION.match(environ["PATH_INFO"]):
        return _OPERATIONS.get((environ["REQUEST_METHOD"], match["rest"]), match["rest"] or ""), match["name"]
    if environ["PATH_INFO"].startswith("/2015-03-31/functions"):
        return "CreateFunction", ""
    return parse_qs(body.decode("latin-1")).get("Action", [""])[0], ""


def _refuse(start: Callable[..., Any], status: int, code: str, words: str, *, is_xml: bool = False) -> Iterable[bytes]:
    if is_xml:
        text = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{words}</Message></Error>"
        start(f"{status} Refused", [("Content-Type", "text/xml")])
        return [f"{text}<RequestId>r-1</RequestId></ErrorResponse>".encode()]
    return _send(start, status, {"Message": words, "Type": "User"}, {"x-amzn-ErrorType": code})


def _send(
    start: Callable[..., Any], status: int, answer: Any, headers: dict[str, str] | None = None
) -> Iterable[bytes]:
    start(f"{status} Answer", [("Content-Type", "application/json"), *(headers or {}).items()])
    return [json.dumps(answer).encode()]
