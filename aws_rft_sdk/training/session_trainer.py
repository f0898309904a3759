"""Lets the jobs of a `LocalBedrock` train in a training session of SageMaker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aws_rft_sdk.errors import ConfigurationError
from aws_rft_sdk.runtime.bedrock.trainers import TrainingStep, Update
from aws_rft_sdk.runtime.policies import Policy, PolicyFunction
from aws_rft_sdk.training.rows import row_of_completion
from aws_rft_sdk.training.training_session import LOSSES, Loss, Sampled, TrainingSession, datum

Sample = Callable[..., Sampled]
"""`TrainingSession.sample`, with weights that are chosen already."""


class SessionTrainer:
    """The trainer of a session: `LocalBedrock(trainer=SessionTrainer(session, ...))`. No GPU of one's own is needed.

    A step goes back to the state that it begins from, sends the recorded tokens, log-probabilities and advantages,
    makes one optimizer step and saves. So the state is two ARNs of model packages, and a step that broke off is done
    again from the state before it. None is the session as it was when this trainer first used it.

    Args:
        session: Nothing else may train it.
        policy: Gets a function like `TrainingSession.sample`, with the weights of a state, and returns what answers
            chat requests. Its completions need `prompt_token_ids`, `token_ids` and log-probabilities.
        loss: `ppo`, `cispo` or `importance_sampling`.
        loss_config: See `TrainingSession.forward_backward`.
        learning_rate: The job's `learning_rate_multiplier` multiplies it.
        adam: See `TrainingSession.optimizer_step`.

    Concurrency: as in `Trainer`. Steps run one after the other.
    """

    def __init__(
        self,
        session: TrainingSession,
        policy: Callable[[Sample], Policy | PolicyFunction],
        *,
        loss: Loss = "ppo",
        loss_config: Mapping[str, float] | None = None,
        learning_rate: float = 1e-5,
        adam: Mapping[str, float] | None = None,
    ) -> None:
        if loss not in LOSSES[1:]:
            raise ConfigurationError(f"loss is {loss!r}. Give one of {', '.join(LOSSES[1:])}")
        self._session, self._make_policy, self._loss, self._loss_config = session, policy, loss, loss_config
        self._rate, self._adam = learning_rate, dict(adam or {})
        self._lock = threading.RLock()
        self._base: dict[str, str] | None = None
        self._trained: str | None = None
        """The saved state that the session is in. None if that is not known."""
        self._has_gradients = False
        """Whether there may be gradients that no optimizer step has taken."""
        self._ready: str | None = None
        """The weights that are loaded for sampling."""

    def policy(self, state: bytes | None) -> Policy | PolicyFunction:
        """Return the policy with the weights of a state. See `Trainer`."""

        def sample(prompt: Sequence[int], **options: Any) -> Sampled:
            with self._lock:
                weights = self._read(state)["weights"]
                if self._ready != weights:
                    self._session.load_weights_for_sampling(weights)
                    self._ready = weights
            return self._session.sample(prompt, model_package_arn=weights, **options)

        return self._make_policy(sample)

    def step(self, state: bytes | None, step: TrainingStep) -> Update:
        """Learn from the groups of one step. See `Trainer`.

        Raises:
            PayloadError: A completion has no token ids, no log-probabilities or no tokens of its prompt.
            JobServiceError, ServiceError: The service failed. The state before the step is unchanged.
        """
        samples = [sample for group in step.groups for sample in group.samples]
        # A group of equal rewards has advantages of 0 and no gradient. Its tokens would only cost money.
        data = [
            datum(row, [sample.advantage] * len(row.completion_ids), self._loss)
            for sample in samples
            for row in [row_of_completion(sample.completion)]
            if sample.advantage
        ]
        with self._lock:
            begun = self._read(state)
            if not data:
                return Update(json.dumps(begun).encode())
            rate = self._rate * step.hyperparameters["learning_rate_multiplier"]
            if self._has_gradients:  # of a step that broke off: this step uses them up, and loading undoes it
                self._session.optimizer_step(rate, **self._adam)
                self._has_gradients = False
            if self._trained != begun["state"]:
                self._session.load_state(begun["state"])
            self._trained, self._has_gradients = None, True
            found = self._session.forward_backward(data, self._loss, self._loss_config)
            found |= self._session.optimizer_step(rate, **self._adam)
            self._has_gradients = False
            saved = self._save()
            return Update(json.dumps(saved).encode(), found)

    def _read(self, state: bytes | None) -> dict[str, str]:
        if state is not None:
            return dict(json.loads(state))
        if self._base is None:
            self._base = self._save()
        return self._base

    def _save(self) -> dict[str, str]:
        saved = {"state": self._session.save_state(), "weights": self._session.save_weights()}
        self._trained = saved["state"]
        return saved
