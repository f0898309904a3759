"""Which policy answers for which model."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence

from aws_rft_sdk.runtime.bedrock.errors import ApiRefusal
from aws_rft_sdk.runtime.bedrock.store import Store
from aws_rft_sdk.runtime.bedrock.trainers import Trainer
from aws_rft_sdk.runtime.policies import Policy, make_policy

TUNABLE_MODELS = ("openai.gpt-oss-20b", "qwen.qwen3-32b", "qwen.qwen3-32b-v1:0")
"""The models that AWS documents for fine-tuning."""
_KEPT = 8
"""Policies of states that stay in memory."""


class Models:
    """The policies of base models, tuned models and checkpoints.

    Args:
        base: Answers for base models. None if the trainer does.
        trainer: Makes the policies of everything that was trained. None if nothing learns.
        store: Knows the tuned models and checkpoints.
        base_models: Ids of the models that can be called and tuned.

    Concurrency: call it in the server's event loop.
    """

    def __init__(self, base: Policy | None, trainer: Trainer | None, store: Store, base_models: Sequence[str]) -> None:
        self._base = base
        self._trainer = trainer
        self._store = store
        self._base_models = base_models
        self._made: OrderedDict[bytes | None, Policy] = OrderedDict()
        self._lock = asyncio.Lock()

    def check_base(self, model: str) -> None:
        """Return if a model can be tuned.

        Raises:
            ApiRefusal: 404 if it cannot.
        """
        if model not in self._base_models:
            known = ", ".join(self._base_models)
            text = f"The model {model!r:.200} does not exist or cannot be fine-tuned; known are {known}"
            raise ApiRefusal(404, text, param="model", code="model_not_found")

    async def policy_of(self, model: object) -> Policy | None:
        """Return the policy that answers for a model, or None if no policy was given.

        Raises:
            ApiRefusal: 404 if there is no such model, 400 if none is named.
        """
        if not isinstance(model, str) or not model:
            raise ApiRefusal(400, f"model must be the id of a model, not {model!r:.80}", param="model")
        if model in self._base_models:
            return self._base if self._base is not None else await self.policy_at(None)
        found = self._store.trained(model)
        if found is None:
            text = f"The model {model!r:.200} does not exist or you do not have access to it"
            raise ApiRefusal(404, text, param="model", code="model_not_found")
        return await self.policy_at(found[1])

    async def policy_at(self, state: bytes | None) -> Policy | None:
        """Return the policy with what was learnt until a state."""
        if self._trainer is None:
            return self._base
        async with self._lock:
            policy = self._made.get(state)
            if policy is None:
                # In a thread, because a trainer may load a model here.
                policy = make_policy(await asyncio.to_thread(self._trainer.policy, state))
                assert policy is not None  # noqa: S101 - a trainer returns no None; for the type checker
                self._made[state] = policy
            self._made.move_to_end(state)
            while len(self._made) > _KEPT:
                _, oldest = self._made.popitem(last=False)
                if oldest not in self._made.values():
                    await oldest.aclose()
        return policy

    async def aclose(self) -> None:
        """Release what the policies opened in the running event loop."""
        for policy in [*self._made.values(), *([] if self._base is None else [self._base])]:
            await policy.aclose()
        self._made.clear()
