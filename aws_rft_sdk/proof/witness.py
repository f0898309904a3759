"""What happens in this process during a proof: which agent asks which model, which tools run, which hosts are called.

Strands' own spans say which agent and which tool is at work. A value in OpenTelemetry's context says which rollout it
is: unlike `RFTContext`, that context travels into every thread, because Strands instruments threads. So a call in a
thread that does not know its rollout is seen, too.

Spans alone do not show all model calls: Strands makes none for summaries and for `structured_output`. So each class of
model tells of its calls. A call gets a span of its own, and a turn takes the id of the current span as its span id:
that is how a request which arrives at the runtime is matched to its call.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import context as otel
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from strands import Agent
from strands.hooks import BeforeInvocationEvent
from strands.models.model import Model
from strands.telemetry.tracer import get_tracer

from aws_rft_sdk._user_code import user_place
from aws_rft_sdk.context import RFTContext
from aws_rft_sdk.proof.providers import ModelProviderRefused, is_loopback, is_provider, listening
from aws_rft_sdk.proof.stage import Probe
from aws_rft_sdk.proof.verdict import HostCall, ModelCall
from aws_rft_sdk.settings import overridden

_RUN = otel.create_key("rft-proof-run")
_CALL = otel.create_key("rft-proof-call")
_METHODS = ("stream", "structured_output")


@dataclass(frozen=True)
class Sightings:
    """What was seen, besides the model calls."""

    tools: frozenset[str] = frozenset()
    """Tools that ran, or still do."""
    failed_tools: frozenset[str] = frozenset()
    """Those that never ended well."""
    agents: frozenset[str] = frozenset()
    """Names of the agents that ran."""
    idle_agents: tuple[tuple[str, str], ...] = ()
    """Agents that were made and never ran: name, and the place that made them."""
    hosts: tuple[tuple[HostCall, int], ...] = ()
    """Hosts, and how often they were called; the most frequent first."""


class Witness(SpanProcessor):
    """Sees what rollouts do. Use `watching` around all of a proof, and `within` around each rollout of it.

    Concurrency: safe from any thread.

    Args:
        own_port: The port of the proof's own runtime.
        allowed: Hosts of model providers, ids of models and names of agents that rollouts may use: judges, embeddings.
    """

    def __init__(self, own_port: int | None = None, allowed: tuple[str, ...] = ()) -> None:
        self._own_port = own_port
        self._allowed = allowed
        self._lock = threading.Lock()
        self._in_progress: Counter[bool] = Counter()  # rollouts (True) and calls outside (False)
        self._calls: list[ModelCall] = []
        self._open: dict[int, ReadableSpan] = {}
        self._tools: Counter[tuple[str, bool]] = Counter()
        self._agents: dict[tuple[str, str], bool] = {}
        self._names: set[str] = set()
        self._hosts: Counter[HostCall] = Counter()
        self._looked_up: set[tuple[Probe | None, int | None]] = set()
        with overridden({"OTEL_SDK_DISABLED": "false"}):
            provider = TracerProvider(sampler=ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(self)
        self._tracer = provider.get_tracer(__name__)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """See everything for the body of a `with`. Afterwards Strands is as it was.

        Strands' spans come here meanwhile rather than to the exporters of a provider that the user has set.
        """
        with ExitStack() as stack:
            stack.enter_context(_replaced(get_tracer(), "tracer", self._tracer))
            stack.enter_context(_replaced(Agent, "__init__", self._noting_agents(Agent.__init__)))
            stack.enter_context(self._watching_models())
            stack.enter_context(listening(self._note_connection))
            yield

    @contextmanager
    def within(self, run: Probe) -> Iterator[None]:
        """Take everything below the body of a `with`, in threads too, for a part of this rollout or call outside."""
        is_rollout = run.trajectory_id is not None
        with self._lock:
            self._in_progress[is_rollout] += 1
        try:
            with _attached(otel.set_value(_RUN, run)):
                yield
        finally:
            with self._lock:
                self._in_progress[is_rollout] -= 1

    def take_calls(self) -> list[ModelCall]:
        """Return the calls of models inside rollouts since the last time, in order of beginning."""
        with self._lock:
            calls, self._calls = self._calls, []
        return calls

    def sightings(self) -> Sightings:
        """Return what else was seen so far."""
        with self._lock:
            ended = {name for name, _ in self._tools}
            under_way = {tool for span in list(self._open.values()) if (tool := _attribute(span, "tool")) is not None}
            return Sightings(
                tools=frozenset(ended | under_way),
                failed_tools=frozenset(name for name in ended if not self._tools[name, True]),
                agents=frozenset(self._names),
                idle_agents=tuple(agent for agent, has_run in self._agents.items() if not has_run),
                hosts=tuple(self._hosts.most_common()),
            )

    def running_tools(self) -> list[str]:
        """Return the tools that run now, each as "tool x of agent y"."""
        return sorted({self._who(span) for span in list(self._open.values()) if _attribute(span, "tool")})

    # --- agents and tools, by Strands' spans -------------------------------------------------------------------------

    def on_start(self, span: ReadableSpan, parent_context: otel.Context | None = None) -> None:
        """Keep a span while it is open, since children ask it for the agent."""
        self._open[_id(span)] = span

    def on_end(self, span: ReadableSpan) -> None:
        """Note the tool or the agent that has ended."""
        self._open.pop(_id(span), None)
        if not self._concerns_rollout(_current_run()):
            return
        tool, agent = _attribute(span, "tool"), _attribute(span, "agent")
        with self._lock:
            if tool is not None:
                self._tools[tool, span.attributes.get("gen_ai.tool.status") != "error"] += 1  # type: ignore[union-attr]
            elif agent is not None:
                self._names.add(agent)

    def _noting_agents(self, init: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(init)
        def noting(agent: Agent, *args: Any, **kwargs: Any) -> None:
            init(agent, *args, **kwargs)
            run = _current_run()
            if run is None or run.trajectory_id is not None:  # not one that production alone uses
                self.know(agent, user_place(sys._getframe(1)))

        return noting

    def know(self, agent: Agent, where: str) -> None:
        """Expect an agent to run."""
        key = (agent.name, where)
        with self._lock:
            self._agents.setdefault(key, False)

        def ran(event: BeforeInvocationEvent) -> None:
            if self._concerns_rollout(_current_run()):
                self._agents[key] = True

        agent.hooks.add_callback(BeforeInvocationEvent, ran)

    def _who(self, span: object) -> str:
        tool, agent = self._tool_and_agent(span)
        return " of ".join(f"{kind} {name}" for kind, name in (("tool", tool), ("agent", agent)) if name)

    def _tool_and_agent(self, span: object) -> tuple[str | None, str | None]:
        """Return the tool and the agent that a span is within, None for none."""
        tool = None
        while isinstance(span, ReadableSpan):
            agent = _attribute(span, "agent")
            if agent is not None:
                return tool, agent
            tool = tool or _attribute(span, "tool")
            span = self._open.get(span.parent.span_id) if span.parent is not None else None
        return tool, None

    # --- model calls -------------------------------------------------------------------------------------------------

    @contextmanager
    def _watching_models(self) -> Iterator[None]:
        with ExitStack() as stack:
            watched: set[tuple[type, str]] = set()

            def watch(model_class: type) -> None:
                owners = [owner for owner in model_class.__mro__ if owner is not Model]
                for owner, name in ((owner, name) for owner in owners for name in _METHODS):
                    method = vars(owner).get(name)
                    if inspect.isfunction(method) and (owner, name) not in watched:
                        watched.add((owner, name))
                        stack.enter_context(_replaced(owner, name, self._noting_calls(method)))

            def watch_new(model_class: type[Any], /, **kwargs: Any) -> None:
                super(Model, model_class).__init_subclass__(**kwargs)  # type: ignore[misc] # a subclass of it
                watch(model_class)

            init_subclass: classmethod[Any, Any, None] = classmethod(watch_new)
            stack.enter_context(_replaced(Model, "__init_subclass__", init_subclass))
            for model_class in _subclasses(Model):
                watch(model_class)
            yield

    def _noting_calls(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def noting(model: Model, *args: Any, **kwargs: Any) -> Any:
            outer: ModelCall | None = otel.get_value(_CALL)  # type: ignore[assignment] # ours
            run = _current_run()
            if outer is not None:  # a model that asks another one: a router, a wrapper
                outer.provider, outer.model_id = type(model).__name__, _model_id(model) or outer.model_id
                outer.is_allowed = outer.is_allowed or outer.model_id in self._allowed
                return method(model, *args, **kwargs)
            if not self._concerns_rollout(run):
                return method(model, *args, **kwargs)
            span = self._tracer.start_span("rft.proof.model_call")
            agent, model_id = self._tool_and_agent(trace.get_current_span())[1], _model_id(model)
            call = ModelCall(
                run=run,
                agent=agent,
                provider=type(model).__name__,
                model_id=model_id,
                is_allowed=not {agent, model_id}.isdisjoint(self._allowed),
                span_id=trace.format_span_id(span.get_span_context().span_id),
                knows_rollout=RFTContext.current() is not None,
                where=user_place(sys._getframe(1)),
                began=time.monotonic(),
            )
            with self._lock:
                self._calls.append(call)
            return _followed(call, span, functools.partial(method, model, *args, **kwargs))

        return noting

    # --- connections -------------------------------------------------------------------------------------------------

    def _note_connection(self, host: str, port: int | None, is_connection: bool) -> None:
        run = _current_run()
        is_local = is_loopback(host)
        if not self._concerns_rollout(run) or (is_local and (not is_connection or port == self._own_port)):
            return
        if is_connection and not is_local and (run, port) in self._looked_up:
            return  # the address of a name that is noted
        if not is_connection:
            self._looked_up.add((run, port))
        call: ModelCall | None = otel.get_value(_CALL)  # type: ignore[assignment] # ours
        is_allowed = host in self._allowed or (call is not None and call.is_allowed)
        is_refused = is_provider(host, port) and not is_allowed
        who = self._who(trace.get_current_span())
        shown = f"{host}:{port}" if is_connection else host
        with self._lock:
            self._hosts[HostCall(shown, is_refused, who, user_place(sys._getframe()))] += 1
        if is_refused:
            raise ModelProviderRefused(
                f"the proof refused a connection to {shown}, a model provider: a rollout may ask only the model that "
                "is trained"
            )

    def _concerns_rollout(self, run: Probe | None) -> bool:
        """Whether something happens inside a rollout. Where no run is known: whether there are only rollouts."""
        if run is not None:
            return run.trajectory_id is not None
        return self._in_progress[True] > 0 and not self._in_progress[False]


async def _followed(call: ModelCall, span: trace.Span, start: Callable[[], Any]) -> AsyncIterator[Any]:
    """Yield the events of a model call. Its span is the current one while the model works, not while others do."""
    context = otel.set_value(_CALL, call, trace.set_span_in_context(span))
    events: Any = None
    try:
        with _attached(context):
            events = aiter(start())
        while True:
            with _attached(context):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    break
            yield event
    except BaseException:
        call.raised = True
        raise
    finally:
        with _attached(context):
            if hasattr(events, "aclose"):
                await events.aclose()
        rollout = RFTContext.current()
        call.is_turn = rollout is not None and call.span_id in rollout.span_ids
        call.ended = time.monotonic()
        span.end()


@contextmanager
def _attached(context: otel.Context) -> Iterator[None]:
    token = otel.attach(context)
    try:
        yield
    finally:
        otel.detach(token)


@contextmanager
def _replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    """Set an attribute for the body of a `with`."""
    missing = object()
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is missing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _subclasses(of: type[Any]) -> Iterator[type[Any]]:
    for subclass in of.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _current_run() -> Probe | None:
    return otel.get_value(_RUN)  # type: ignore[return-value] # ours


def _id(span: ReadableSpan) -> int:
    return span.get_span_context().span_id  # type: ignore[union-attr] # a span that has begun has one


def _attribute(span: ReadableSpan, kind: str) -> str | None:
    """Return the name of the "agent" or "tool" of a span of Strands, None where it is of another kind."""
    name = (span.attributes or {}).get(f"gen_ai.{kind}.name")
    return None if name is None else str(name)


def _model_id(model: object) -> str | None:
    config = getattr(model, "config", None)
    name = config.get("model_id") if isinstance(config, Mapping) else None
    return None if name is None else str(name)
