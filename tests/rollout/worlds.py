"""What tests of engines share: handlers in a file, a policy that counts tokens, and a worker over HTTP."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANDLERS = """
import asyncio, ctypes, os, pathlib, signal, time
import requests
from aws_rft_sdk import RFTContext, rft_handler

def infer(payload):
    answer = requests.post(
        payload["metadata"]["endpoint"] + "/v1/chat/completions",
        headers=RFTContext.get_headers(),
        json={"model": "default", "messages": [{"role": "user", "content": payload["prompt"]}]},
        timeout=30,
    )
    answer.raise_for_status()
    return answer.json()["choices"][0]["message"]["content"]

@rft_handler
def plain(payload):
    print("handlers print, and nothing breaks")
    metrics, state = {"length": len(payload["prompt"])}, {"rows": [payload["prompt"], None]}
    return {"reward": len(infer(payload)) / 10, "metrics": metrics, "state": state}

@rft_handler
async def coroutine(payload):
    return {"reward": len(await asyncio.to_thread(infer, payload)) / 10, "metrics": {"odd": {1, 2} == {2, 1}}}

@rft_handler
def by_turn(payload):
    return {"rewards": [len(infer(payload)) / 10 for _ in range(2)]}

@rft_handler
def fails_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        raise LookupError("b is not for us")
    return 1.0

@rft_handler
def scores_badly(payload):
    infer(payload)
    return {"reward": float("nan") if payload["prompt"] == "b" else 1.0, "metrics": {"odd": {1}}}

def a_tool(payload):
    raise ConnectionError("no route to the tool")

@rft_handler
def raises_within_a_tool(payload):
    infer(payload)
    try:
        a_tool(payload)
    except ConnectionError as error:
        error.kind = "tool"
        raise

@rft_handler
def fails_once(payload):
    infer(payload)
    mark = pathlib.Path(__file__).with_name("failed-" + payload["prompt"])
    try:
        mark.touch(exist_ok=False)  # of rollouts that run at once, one fails
    except FileExistsError:
        return 1.0
    raise LookupError("the first time")

@rft_handler
def dies_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

@rft_handler
def dies_after_reporting(payload):
    from aws_rft_sdk import RolloutFeedbackClient
    infer(payload)
    if payload["prompt"] == "b":
        RolloutFeedbackClient(payload).report_complete(0.25)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

@rft_handler
def hangs_on_b(payload):
    infer(payload)
    while payload["prompt"] == "b":
        time.sleep(0.01)
    return 1.0

@rft_handler
def holds_the_lock_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        ctypes.PyDLL(None).sleep(600)
    return 1.0

def begin():
    # Holds the other end of what a test reads, until this process and those that it forks are gone.
    os.open(pathlib.Path(__file__).with_name("alive"), os.O_RDWR)
    pathlib.Path(__file__).with_name("begun").touch()

@rft_handler
def forks_and_dies_on_b(payload):
    infer(payload)
    if payload["prompt"] == "b":
        begin()
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0

@rft_handler
def never_lets_go(payload):
    infer(payload)
    begin()
    ctypes.PyDLL(None).sleep(600)

@rft_handler
async def waits(payload):
    await asyncio.to_thread(infer, payload)
    with pathlib.Path(__file__).with_name("started").open("a") as file:
        file.write(payload["metadata"]["rolloutId"] + " " + payload["prompt"] + "\\n")
    while not pathlib.Path(__file__).with_name("release").exists():
        await asyncio.sleep(0.01)
    return 1.0
"""
POLICY = """
def policy(request):
    length = len(request["messages"][-1]["content"])
    message = {"role": "assistant", "content": "x" * length}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": length, "completion_tokens": 2 * length, "total_tokens": 3 * length},
    }
"""
PROMPTS = ["a", "b", "cc"]


def write_world(folder):
    """Write handlers, policy and dataset to a folder."""
    (folder / "engine_handlers.py").write_text(HANDLERS)
    (folder / "policy.py").write_text(POLICY)
    (folder / "data.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return folder


def policy(request):
    """Answer as the policy of the file does."""
    namespace = {}
    exec(POLICY, namespace)
    return namespace["policy"](request)


@contextmanager
def worker(handler, *, busy=0, retry_after="0", hangs_up=False, port=0, server=ThreadingHTTPServer):
    """Serve a handler as an agent is deployed. Yields its URL and the list of requests as (path, payload).

    Args:
        handler: It runs in a thread; `/rollout` answers before, `/invocations` after.
        busy: Calls that are answered 429 first.
        retry_after: What those answers say.
        hangs_up: Whether it closes the connection instead of an answer: `/invocations` when the handler has returned.
        port: Where it listens; 0 for any that is free.
        server: Class of the server.
    """
    calls, threads = [], []
    refusals = iter(range(busy))

    class Worker(BaseHTTPRequestHandler):
        def do_POST(self):
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            calls.append((self.path, payload))
            if next(refusals, None) is not None:
                self.answer(429, {}, {"Retry-After": retry_after})
            elif self.path == "/rollout":
                threads.append(threading.Thread(target=self.call, args=(payload,)))
                threads[-1].start()
                if not hangs_up:
                    self.answer(202, {})
            else:
                answer = self.call(payload)
                if not hangs_up:
                    self.answer(*answer)

        def call(self, payload):
            try:
                result = handler(payload)
                return 200, result if isinstance(result, dict) else {"reward": result}
            except Exception as error:
                return 500, {"error": f"{type(error).__name__}: {error}"}

        def answer(self, status, body, headers=()):
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**dict(headers), "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server = server(("127.0.0.1", port), Worker)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", calls
    finally:
        server.shutdown()
        serving.join()
        server.server_close()
        for thread in threads:
            thread.join()
