"""The policy that samples from a model in vLLM, by tokens, and what sends vLLM new weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

from accelerate import Accelerator
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.generation.vllm_generation import VLLMGeneration

from aws_rft_sdk._frozen import JSON
from aws_rft_sdk.errors import ConfigurationError, UnavailableError
from aws_rft_sdk.runtime import Passthrough, PolicyError
from aws_rft_sdk.runtime.answers import encode
from aws_rft_sdk.runtime.upstream import Upstream
from aws_rft_sdk.training.batching import Sampled, Sampling
from aws_rft_sdk.training.torch_policy import ChatPolicy

_UNCHANGED: Mapping[str, JSON] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""vLLM takes what a request does not say from the model's `generation_config.json`. A trainer knows nothing of it."""


class VLLMPolicy(ChatPolicy):
    """Samples answers with vLLM's `/v1/completions`, which takes and gives tokens.

    vLLM's chat completions tokenise the history anew for each turn. Here nothing is: templates, tool calls and the
    continuation of conversations are those of `ChatPolicy`. Nothing is retried, since vLLM may have sampled. Errors of
    vLLM keep their status. If vLLM cannot be reached, the call is answered 503, as nothing was sampled then.

    Start vLLM with `--logprobs-mode processed_logprobs`, or its log-probabilities are those before temperature and
    `top_p`. `docs/training.md` has all flags.

    Args:
        base_url: vLLM's base URL, up to `/completions`. Usually it ends in `/v1`.
        tokenizer: Of the model that vLLM serves, with a chat template.
        model: Name of the model or of the adapter to ask for. None for the one that vLLM serves.
        api_key: Sent as a bearer token. None for no authentication.
        end_ids: Tokens that end an answer, beside the tokenizer's own.
        seed: Begins the seeds of the requests. How far they repeat what is sampled is up to vLLM.
        max_tokens: How many tokens to sample at most if the request does not say.
        max_context_tokens: Limit of prompt and sampled tokens together, vLLM's `--max-model-len`. If it is None and the
            two are longer, vLLM refuses the call.
        timeout_seconds: How long to wait for vLLM to connect or to send its next byte.
        send_weights: Is called at the beginning of each round, for example the function of `weight_sender`. None if
            vLLM's weights stay as they are, or if they are sent by others.

    Raises:
        ConfigurationError: `base_url` is no http or https URL, the tokenizer has no chat template, or a number is too
            small.
    """

    def __init__(
        self,
        base_url: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model: str | None = None,
        api_key: str | None = None,
        end_ids: Collection[int] = (),
        seed: int = 0,
        max_tokens: int = 512,
        max_context_tokens: int | None = None,
        timeout_seconds: float = 600.0,
        send_weights: Callable[[], None] | None = None,
    ) -> None:
        own = tokenizer.eos_token_id
        super().__init__(
            tokenizer,
            end_ids=frozenset([*end_ids, *([own] if isinstance(own, int) else own or ())]),
            seed=seed,
            max_tokens=max_tokens,
            max_context_tokens=max_context_tokens,
        )
        self._upstream = Upstream(base_url, api_key=api_key, timeout_seconds=timeout_seconds)
        self._fields: dict[str, JSON] = {**_UNCHANGED, "return_token_ids": True, "logprobs": 0}
        if model is not None:
            self._fields["model"] = model
        self._send_weights = send_weights

    def new_round(self, name: str) -> None:
        """Send the weights, and forget conversations. Call it when the weights have changed.

        Args:
            name: Names the round. The k-th rollout of a prompt has another seed in each round.
        """
        if self._send_weights is not None:
            self._send_weights()
        super().new_round(name)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._upstream.aclose()

    async def _sample(self, prompt: Sequence[int], sampling: Sampling) -> Sampled:
        body = {
            **self._fields,
            "prompt": list(prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(sampling.stops),
            "stop_token_ids": sorted(sampling.end_ids),
            "seed": sampling.random.getrandbits(63),
        }
        answer = await self._upstream.post("/completions", encode(body))
        try:
            text = b"".join([piece async for piece in answer.pieces])
        finally:
            await answer.close()
        return _read(answer, text, prompt)


def _read(answer: Passthrough, text: bytes, prompt: Sequence[int]) -> Sampled:
    """Return what was sampled.

    Raises:
        PolicyError: With vLLM's status if it refused the request. 500 if the answer lacks tokens or log-probabilities.
    """
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if answer.status != 200:
        error = value.get("error") if isinstance(value, dict) else None
        message = error.get("message") if isinstance(error, dict) else text[:500].decode("utf-8", "replace")
        status = answer.status if 400 <= answer.status <= 599 else 500
        raise PolicyError(f"vLLM answered {answer.status}: {message}", status=status)
    choices = value.get("choices") if isinstance(value, dict) else None
    choice: dict[str, Any] = choices[0] if choices else {}
    ids, logprobs = choice.get("token_ids"), (choice.get("logprobs") or {}).get("token_logprobs")
    if not ids or not logprobs or len(ids) != len(logprobs) or None in logprobs:
        raise PolicyError(
            "vLLM's answer has no token_ids, or not one log-probability for each. Versions before 0.10.2 do not know "
            "return_token_ids",
            status=500,
        )
    if choice.get("prompt_token_ids") != list(prompt):
        raise PolicyError("vLLM has read other tokens than it was sent", status=500)
    reason: Literal["stop", "length"] = "length" if choice["finish_reason"] == "length" else "stop"
    return Sampled(ids, [float(logprob) for logprob in logprobs], reason)


def weight_sender(
    base_url: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, accelerator: Accelerator
) -> Callable[[], None]:
    """Connect to vLLM, and return a function that sends it the weights of a model, with adapters merged into them.

    The protocol is TRL's: over NCCL, so both need a GPU, and `vllm` must be installed here as well. All processes of
    `accelerate launch` must call both functions, since sharded weights are gathered.

    Args:
        base_url: vLLM's base URL, as for `VLLMPolicy`.
        model: The model that is trained, as the trainer holds it.
        tokenizer: Its tokenizer.
        accelerator: The trainer's.

    Raises:
        ConfigurationError: `vllm` is not installed, there is no GPU, or vLLM was started without the flags for it.
        UnavailableError: vLLM cannot be reached within 240 s.
    """
    try:
        generation = VLLMGeneration(
            model, accelerator, tokenizer, mode="server", server_base_url=base_url.rstrip("/").removesuffix("/v1")
        )
    except ImportError as error:
        raise ConfigurationError(
            "vllm is not installed here, and TRL needs it to send weights: pip install 'trl[vllm]'"
        ) from error
    except RuntimeError as error:
        raise ConfigurationError(f"vLLM at {base_url} cannot take weights: {error}") from error
    except OSError as error:
        raise UnavailableError(f"vLLM at {base_url} cannot be reached: {error}") from error

    def send() -> None:
        generation.sync_weights()
        accelerator.wait_for_everyone()  # no process may sample before the first one has sent everything

    return send
