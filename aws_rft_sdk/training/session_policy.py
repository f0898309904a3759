"""The policy that samples from a training session of SageMaker, by tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from functools import partial

from transformers import PreTrainedTokenizerBase

from aws_rft_sdk.errors import RFTError
from aws_rft_sdk.runtime import PolicyError
from aws_rft_sdk.training.batching import Sampled, Sampling
from aws_rft_sdk.training.session_trainer import Sample
from aws_rft_sdk.training.torch_policy import ChatPolicy


class SessionPolicy(ChatPolicy):
    """Samples answers from a session: `SessionTrainer(session, lambda sample: SessionPolicy(sample, tokenizer))`.

    The tokenizer runs here and the model on AWS. Templates, tool calls and the continuation of conversations are those
    of `ChatPolicy`. If the session fails, the call is answered 503.

    Args:
        sample: `TrainingSession.sample`, or what `SessionTrainer` passes.
        tokenizer: Of the session's base model, with a chat template.
        end_ids: Tokens that end an answer, beside the tokenizer's own.
        seed: Begins the seeds of the requests. How far they repeat what is sampled is up to the service.
        max_tokens: How many tokens to sample at most if the request does not say.
        max_context_tokens: Limit of prompt and sampled tokens together. None for no limit.

    Raises:
        ConfigurationError: The tokenizer has no chat template, or a number is below 1.
    """

    def __init__(
        self,
        sample: Sample,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_ids: Collection[int] = (),
        seed: int = 0,
        max_tokens: int = 512,
        max_context_tokens: int | None = None,
    ) -> None:
        own = tokenizer.eos_token_id
        super().__init__(
            tokenizer,
            end_ids=frozenset([*end_ids, *([own] if isinstance(own, int) else own or ())]),
            seed=seed,
            max_tokens=max_tokens,
            max_context_tokens=max_context_tokens,
        )
        self._session_sample = sample

    async def _sample(self, prompt: Sequence[int], sampling: Sampling) -> Sampled:
        ask = partial(
            self._session_sample,
            prompt,
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=sampling.stops,
            seed=sampling.random.getrandbits(31),
        )
        try:
            return Sampled(*await asyncio.to_thread(ask))
        except RFTError as error:
            raise PolicyError(f"the training session failed: {error}", status=503) from error
