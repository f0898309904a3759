"""The routes of `LocalBedrock` as an ASGI application."""

from __future__ import annotations

import functools
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime import answers
from aws_rft_sdk.runtime._database import JobEndedError
from aws_rft_sdk.runtime.answers import Refusal
from aws_rft_sdk.runtime.app import read_body
from aws_rft_sdk.runtime.auth import Verifier
from aws_rft_sdk.runtime.bedrock.errors import ApiRefusal, send_api_refusal
from aws_rft_sdk.runtime.bedrock.functions import Functions
from aws_rft_sdk.runtime.bedrock.models import Models
from aws_rft_sdk.runtime.bedrock.requests import MAX_PAGE, page, read_job
from aws_rft_sdk.runtime.bedrock.store import ENDED, Doc, Event, Store
from aws_rft_sdk.runtime.bedrock.training import Jobs
from aws_rft_sdk.runtime.faults import ConnectionGoneError, Faults, strike
from aws_rft_sdk.runtime.inference import RESPONSES_PATH, AnsweredError, Inquiry, sample
from aws_rft_sdk.runtime.policies import Call
from aws_rft_sdk.wire import CHAT_COMPLETIONS_PATH

logger = logging.getLogger(__name__)

FUNCTIONS_PREFIX = "/2015-03-31/functions/"
_FUNCTIONS_SUFFIX = "/invocations"
_ROUTES = {"/v1/files": "files", "/v1/fine_tuning": "jobs", FUNCTIONS_PREFIX: "functions"}
"""The names that `Fault.route` has for paths. All other paths are those of inference."""


class Door:
    """Every call comes in here: reads it whole, verifies it, draws a fault, and answers every failure.

    Args:
        inner: Serves the calls of the OpenAI-compatible API.
        functions: The Lambda functions.
        verifiers: Those for the API and for Lambda.
        faults: Trouble to make on purpose. None for none.
        die: Ends the server like a killed process.
    """

    def __init__(
        self,
        inner: ASGIApp,
        functions: Functions,
        verifiers: tuple[Verifier, Verifier],
        faults: Faults | None,
        die: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._functions = functions
        self._api_verifier, self._lambda_verifier = verifiers
        self._faults = faults
        self._die = die

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        path: str = scope["path"]
        is_lambda = path.startswith(FUNCTIONS_PREFIX)
        say = answers.send_refusal if is_lambda else send_api_refusal
        out = send if is_lambda else _with_request_id(send)
        try:
            body = await read_body(scope["headers"], receive)
            if body is None:
                return  # the caller has hung up
            self._verify(scope, body, is_lambda=is_lambda)
            route = next((name for prefix, name in _ROUTES.items() if path.startswith(prefix)), "inference")
            fault = None if self._faults is None else self._faults.draw(route, scope["headers"], body)
            handle = functools.partial(self._lambda if is_lambda else self._api, scope, body)
            if fault is None:
                await handle(send)
            elif fault.kind == "skew" and not is_lambda:
                raise _unauthenticated("Signature expired or not yet valid: its date is too far from the server's")
            else:
                await strike(fault, handle, send, self._die)
        except Refusal as refusal:
            await say(out, refusal)
        except (AnsweredError, ConnectionGoneError):
            pass
        except HTTPException as error:
            await say(out, _refusal_of(error, f"{scope['method']} {path}"))
        except JobEndedError:
            await say(out, Refusal(500, "The server is stopping"))
        except Exception as error:
            logger.exception("path=<%s> | LocalBedrock failed", path)
            await say(out, Refusal(500, f"LocalBedrock failed: {type(error).__name__}: {error}"))

    def _verify(self, scope: Scope, body: bytes, *, is_lambda: bool) -> None:
        raw_path = scope.get("raw_path") or scope["path"].encode()
        verifier = self._lambda_verifier if is_lambda else self._api_verifier
        try:
            verifier.verify(scope["method"], raw_path, scope["query_string"], scope["headers"], body)
        except Refusal as refusal:
            if is_lambda:
                raise
            raise _unauthenticated(refusal.message) from None

    async def _api(self, scope: Scope, body: bytes, send: Send) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        await self._inner(scope, receive, _with_request_id(send))

    async def _lambda(self, scope: Scope, body: bytes, send: Send) -> None:
        path: str = scope["path"]
        if scope["method"] != "POST" or not path.endswith(_FUNCTIONS_SUFFIX):
            text = f"There is no {scope['method']} {path}; LocalBedrock serves Lambda's Invoke and nothing else of it"
            raise Refusal(404, text, code="UnknownOperationException")
        name = path[len(FUNCTIONS_PREFIX) : -len(_FUNCTIONS_SUFFIX)]
        kind = next((value for key, value in scope["headers"] if key == b"x-amz-invocation-type"), b"RequestResponse")
        if kind != b"RequestResponse":
            raise Refusal(400, f"InvocationType {kind.decode('latin-1')!r:.40} is not served: use RequestResponse")
        invocation = await self._functions.invoke(name, body)
        headers = [(b"x-amz-executed-version", b"$LATEST")]
        if invocation.error is not None:
            headers.append((b"x-amz-function-error", invocation.error.encode()))
        await answers.send_body(send, invocation.payload, headers=headers)


def _refusal_of(error: HTTPException, call: str) -> Refusal:
    if error.status_code == 400:
        return ApiRefusal(400, f"The body cannot be read: {error.detail}")
    return ApiRefusal(error.status_code, f"There is no {call} here", code="unknown_url")


def _unauthenticated(message: str) -> ApiRefusal:
    # What the service answers is not documented. This is what OpenAI's API answers to a bad key.
    return ApiRefusal(401, message, code="invalid_api_key")


def _with_request_id(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ()), (b"x-request-id", f"req_{uuid.uuid4().hex}".encode())]
            message = {**message, "headers": headers}
        await send(message)

    return sending


class Api:
    """The calls of the OpenAI-compatible API.

    Args:
        store: The database.
        jobs: Runs the jobs.
        models: Which policy answers for which model.
        newest_first: The order in which events and checkpoints are listed.
    """

    def __init__(self, store: Store, jobs: Jobs, models: Models, *, newest_first: bool) -> None:
        self._store, self._jobs, self._models, self._newest_first = store, jobs, models, newest_first

    def make_app(self) -> ASGIApp:
        """Return the application."""
        job = "/v1/fine_tuning/jobs/{id}"
        calls: Iterable[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files", self._files),
            ("GET", "/v1/files/{id}", self._file),
            ("DELETE", "/v1/files/{id}", self._delete_file),
            ("GET", "/v1/files/{id}/content", self._content),
            ("POST", "/v1/fine_tuning/jobs", self._create),
            ("GET", "/v1/fine_tuning/jobs", self._list),
            ("GET", job, self._job),
            ("GET", job + "/events", self._events),
            ("GET", job + "/checkpoints", self._checkpoints),
            ("POST", job + "/cancel", self._cancel),
            ("GET", RESPONSES_PATH + "/{id}", self._response),
            ("DELETE", RESPONSES_PATH + "/{id}", self._delete_response),
            ("POST", RESPONSES_PATH + "/{id}/cancel", self._cancel_response),
        )
        # A bare router, because an application would answer failures itself.
        app = Router([Route(path, call, methods=[method]) for method, path, call in calls], redirect_slashes=False)

        async def route(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["method"] == "POST" and scope["path"] in (CHAT_COMPLETIONS_PATH, RESPONSES_PATH):
                await self._infer(scope["path"], (await receive())["body"], send)
            else:
                await app({**scope, "app": app}, receive, send)  # the key lets it raise where nothing fits

        return route

    # --- inference ---------------------------------------------------------------------------------------------------

    async def _infer(self, path: str, body: bytes, send: Send) -> None:
        inquiry = Inquiry.read(path, (), body, strict=False)
        asked = inquiry.responses_request or inquiry.request
        policy = await self._models.policy_of(asked.get("model"))
        sent = bytearray()

        async def keep(message: Message) -> None:
            sent.extend(message.get("body", b""))
            if not message.get("more_body") and message["type"] == "http.response.body":
                self._store.add_response(_answer_in(bytes(sent), stream=inquiry.stream))
            await send(message)

        async def record(response: bytes, wire_response: bytes | None) -> None:
            return

        call = Call(inquiry.request, inquiry.body, inquiry.streams_chat, trajectory_id=None, turn=0)
        stores = inquiry.responses_request is not None and asked.get("store") is not False
        await (await sample(policy, call, inquiry, keep if stores else send, record))()

    async def _response(self, request: Request) -> Response:
        return JSONResponse(self._find("responses", "response", request))

    async def _delete_response(self, request: Request) -> Response:
        doc = self._find("responses", "response", request)
        self._store.delete_response(doc["id"])
        return JSONResponse({"id": doc["id"], "object": "response.deleted", "deleted": True})

    async def _cancel_response(self, request: Request) -> Response:
        self._find("responses", "response", request)
        raise ApiRefusal(400, "Only responses in the background can be cancelled, and there are none here")

    # --- files -------------------------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        async with request.form() as form:
            file, purpose = form.get("file"), form.get("purpose")
            if not isinstance(file, UploadFile):
                raise ApiRefusal(400, "file is missing: send it as a part of multipart/form-data", param="file")
            if purpose != "fine-tune":
                raise ApiRefusal(400, f'purpose must be "fine-tune", not {purpose!r:.80}', param="purpose")
            content = await file.read()
        if not content:
            raise ApiRefusal(400, "file is empty", param="file")
        doc: Doc = {
            "id": str(uuid.uuid4()),
            "object": "file",
            "bytes": len(content),
            "created_at": int(self._store.now()),
            "filename": file.filename or "upload",
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
            "expires_at": None,
        }
        self._store.add_file(doc, content)
        return JSONResponse(doc)

    async def _files(self, request: Request) -> Response:
        query = request.query_params
        docs = [doc for doc in self._store.all("files") if query.get("purpose") in (None, "", doc["purpose"])]
        if query.get("order", "desc") not in ("asc", "desc"):
            raise ApiRefusal(400, f'order must be "asc" or "desc", not {query["order"]!r:.40}', param="order")
        if query.get("order") != "asc":
            docs.reverse()
        return JSONResponse(page(docs, query, default=MAX_PAGE))

    async def _file(self, request: Request) -> Response:
        return JSONResponse(self._find("files", "file", request))

    async def _content(self, request: Request) -> Response:
        doc = self._find("files", "file", request)
        return Response(self._store.content(doc["id"]), media_type="application/octet-stream")

    async def _delete_file(self, request: Request) -> Response:
        doc = self._find("files", "file", request)
        self._store.delete_file(doc["id"])
        return JSONResponse({"id": doc["id"], "object": "file", "deleted": True})

    # --- jobs --------------------------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        asked = read_job(await request.body())
        self._models.check_base(asked.model)
        for param in ("training_file", "validation_file"):
            file_id = getattr(asked, param)
            if file_id is not None and self._store.get("files", file_id) is None:
                raise ApiRefusal(400, f"{param} {file_id!r:.80} does not exist", param=param, code="invalid_file")
        doc: Doc = {
            "id": f"ftjob-{uuid.uuid4()}",
            "object": "fine_tuning.job",
            "created_at": int(self._store.now()),
            "finished_at": None,
            "estimated_finish": None,
            "status": "validating_files",
            "model": asked.model,
            "fine_tuned_model": None,
            "training_file": asked.training_file,
            "validation_file": asked.validation_file,
            "result_files": [],
            "organization_id": "local",
            "hyperparameters": asked.hyperparameters,
            "trained_tokens": None,
            "error": None,
            "seed": asked.seed,
            "integrations": None,
            "metadata": asked.metadata,
            "method": asked.method,
        }
        created = [Event(f"Created fine-tuning job: {doc['id']}"), Event(f"Validating file: {asked.training_file}")]
        self._store.add_job(doc, created)
        self._jobs.start(doc["id"])
        return JSONResponse(doc)

    async def _list(self, request: Request) -> Response:
        return JSONResponse(page(self._store.all("jobs")[::-1], request.query_params, default=20))

    async def _job(self, request: Request) -> Response:
        return JSONResponse(self._find("jobs", "fine-tuning job", request))

    async def _events(self, request: Request) -> Response:
        return self._page_of("events", request, default=20)

    async def _checkpoints(self, request: Request) -> Response:
        return self._page_of("checkpoints", request, default=10)

    def _page_of(self, table: str, request: Request, *, default: int) -> Response:
        docs = self._store.all(table, self._find("jobs", "fine-tuning job", request)["id"])
        if self._newest_first:
            docs.reverse()
        return JSONResponse(page(docs, request.query_params, default=default))

    async def _cancel(self, request: Request) -> Response:
        doc = self._find("jobs", "fine-tuning job", request)
        if doc["status"] not in ENDED:
            try:
                return JSONResponse(self._jobs.cancel(doc["id"]))
            except JobEndedError:
                doc = self._find("jobs", "fine-tuning job", request)  # it has just ended
        if doc["status"] != "cancelled":
            raise ApiRefusal(400, f"The job has ended as {doc['status']} and cannot be cancelled", code="job_ended")
        return JSONResponse(doc)

    def _find(self, table: str, noun: str, request: Request) -> Doc:
        item_id = request.path_params["id"]
        doc = self._store.get(table, item_id)
        if doc is None:
            raise ApiRefusal(404, f"There is no {noun} with the id {item_id!r:.80}", param="id", code="not_found")
        return doc


def _answer_in(sent: bytes, *, stream: bool) -> dict[str, JSON]:
    """Return the answer of the Responses API in a body that was sent: the body itself, or that of its last event."""
    if not stream:
        answer: Any = json.loads(sent)
    else:
        answer = json.loads(sent.rstrip().rpartition(b"\ndata: ")[2])["response"]
    return dict(answer)
