"""One policy for the runtime of `LocalJobs`: it passes each call to the policy of the rollout's job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.runtime.policies import Call, Passthrough, Policy, PolicyError

_beginning: ContextVar[Policy | None] = ContextVar("aws_rft_policy_of_the_rollout", default=None)


class RoutingPolicy(Policy):
    """Passes each call to the policy that its rollout began with, so that several jobs share a runtime.

    Args:
        base: Answers calls of rollouts that belong to no job. None refuses them.
    """

    def __init__(self, base: Policy | None) -> None:
        self._base = base
        self._policies: dict[str, Policy] = {}
        """Of the rollouts in progress."""
        self._retired: list[Policy] = []

    @contextmanager
    def beginning(self, policy: Policy | None) -> Iterator[None]:
        """Rollouts that are created within it, in the same context, get their answers from `policy`."""
        token = _beginning.set(policy)
        try:
            yield
        finally:
            _beginning.reset(token)

    def begin(self, trajectory_id: str, prompt: JSON) -> None:
        """Tell the policy of the rollout about it."""
        policy = _beginning.get() or self._base
        if policy is not None:
            self._policies[trajectory_id] = policy
            policy.begin(trajectory_id, prompt)

    def end(self, trajectory_id: str) -> None:
        """Forget a rollout. Later calls of it go to the base policy. Repeating is safe."""
        self._policies.pop(trajectory_id, None)

    def retire(self, policy: Policy | None) -> None:
        """Release a policy that no rollout uses any more, with the next call. The base policy is kept."""
        if policy is not None and policy is not self._base:
            self._retired.append(policy)

    async def answer(self, call: Call) -> Mapping[str, JSON] | Passthrough:
        """Return the answer of the rollout's policy."""
        while self._retired:
            await self._retired.pop().aclose()
        policy = self._policies.get(call.trajectory_id or "", self._base)
        if policy is None:
            raise PolicyError("LocalJobs has no policy for rollouts that belong to no job. Pass policy=")
        return await policy.answer(call)

    async def aclose(self) -> None:
        """Release what the policies opened in the running event loop."""
        policies = {id(policy): policy for policy in [*self._policies.values(), *self._retired]}
        if self._base is not None:
            policies[id(self._base)] = self._base
        self._retired.clear()
        for policy in policies.values():
            await policy.aclose()
