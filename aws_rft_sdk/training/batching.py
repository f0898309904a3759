"""Continuous batching: one thread decodes all sequences in progress, with one forward pass for a token of each.

A waiting call joins between two tokens, and a sequence that ends leaves at once. All rows of the batch end at the same
column, so a shorter row has padding on its left only, and masks that count columns (sliding windows) stay right.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from functools import partial
from random import Random
from typing import Any, Literal, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from aws_rft_sdk.training.cached_rows import CachedRows, real_columns
from aws_rft_sdk.training.prefixes import Pairs, Prefix, Prefixes

_WORTH_WAITING = 16
"""A sequence waits a forward pass for another one that will have this many more tokens of its prompt."""
_PADDED = 1024
"""Prompts are computed together if they have fewer tokens than this with their padding, or twice their own."""


class Sampling(NamedTuple):
    """How one sequence is sampled."""

    max_tokens: int
    temperature: float
    """0 takes the likeliest token."""
    top_p: float
    end_ids: frozenset[int]
    """The sequence ends with any of these tokens, which is sampled like the others."""
    is_complete: Callable[[Sequence[int]], bool] | None
    """Called with the sampled tokens after each one. True ends the sequence. None never does."""
    random: Random
    """Gives one number for each token, so that a draw does not depend on other sequences."""
    stops: tuple[str, ...] = ()
    """The texts that `is_complete` looks for, for an engine that looks for them itself."""


class Sampled(NamedTuple):
    """What was sampled. Both lists have the same length, at least 1."""

    token_ids: list[int]
    logprobs: list[float]
    """Natural log-probabilities. See `draw`."""
    finish_reason: Literal["stop", "length"]


class _Sequence:
    def __init__(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self.ids = list(prompt)
        """The prompt and what was sampled. In the batch, keys and values exist for all but the last token."""
        self.sampling = sampling
        self.prefix = Prefix(prompt)
        self.result: Future[Sampled] = Future()
        self.logprobs: list[float] = []
        self.source: Prefix | None = None
        """Where the first `known` tokens of the prompt have keys and values, until the sequence joins the batch."""
        self.known = 0
        self.epoch = 0
        """Says with which weights the sequence began."""

    @property
    def sampled(self) -> list[int]:
        return self.ids[len(self.ids) - len(self.logprobs) :]

    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """None if the sequence goes on."""
        sampling = self.sampling
        if self.ids[-1] in sampling.end_ids or (sampling.is_complete and sampling.is_complete(self.sampled)):
            return "stop"
        return "length" if len(self.logprobs) >= sampling.max_tokens else None


class Batcher:
    """Samples sequences with a causal language model.

    Its thread starts with the first sequence. It puts the model into evaluation mode while sequences are in progress,
    and gives every module its own mode back before the last of them has its result.

    Args:
        model: A causal language model whose cache holds the keys and values of all tokens.
        batch_size: Sequences in progress at once. Further ones wait.
        cache_tokens: Tokens of ended sequences whose keys and values are kept.

    Concurrency: all methods are safe from any thread.
    """

    def __init__(self, model: PreTrainedModel, *, batch_size: int, cache_tokens: int) -> None:
        self._model = model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(base.forward).parameters
        self._cache_name = "past_key_values" if "past_key_values" in accepted else "cache"  # its old name
        self._options: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._batch_size = batch_size
        self._prefixes = Prefixes(cache_tokens)
        self._version: int | None = None
        """Changes when a parameter changes in place."""
        self._stale = False
        self._epoch = 0
        self._active: list[_Sequence] = []
        self._rows = CachedRows()
        self._waiting: deque[_Sequence] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._leaving = False
        self._pid = os.getpid()

    def submit(self, prompt: Sequence[int], sampling: Sampling) -> Future[Sampled]:
        """Sample a continuation of `prompt`, which holds one token or more.

        Settle or cancel the future to give the sequence up. The future may have any exception of the model.

        Raises:
            RuntimeError: This process was forked from the one that made the batcher.
        """
        if os.getpid() != self._pid:  # asked before the lock, which somebody may have held during the fork
            raise RuntimeError("the model was loaded before this process was forked. Load one in this process")
        sequence = _Sequence(prompt, sampling)
        with self._changed:
            self._waiting.append(sequence)
            self._leaving = False
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="aws-rft-batcher", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return sequence.result

    def forget(self) -> None:
        """Forget the keys and values of ended sequences, because the weights changed. Safe to repeat."""
        with self._changed:
            self._stale = True

    def release(self) -> None:
        """Return when all sequences in progress are awaited by somebody. The thread ends if there are none."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None or self._is_awaited())

    def _is_awaited(self) -> bool:
        return any(not sequence.result.done() for sequence in [*self._active, *self._waiting])

    # --- the thread --------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while self._wait():
            modes = [(module, module.training) for module in self._model.modules()]
            settle: list[Callable[[], None]] = []
            try:
                self._model.eval()
                with torch.no_grad():
                    while self._active or self._waiting:
                        _call_all(settle)
                        settle = self._step()
            finally:
                for module, training in modes:
                    module.training = training
                self._rows = CachedRows()  # frees the memory of its buffers
            _call_all(settle)

    def _wait(self) -> bool:
        """Return True if a sequence waits, or False if the thread is to end."""
        with self._changed:
            while not self._waiting:
                if self._leaving:
                    self._thread = None
                    self._prefixes.clear()
                    self._changed.notify_all()
                    return False
                self._changed.wait()
            return True

    def _step(self) -> list[Callable[[], None]]:
        """Sample a token of each sequence. Returns what tells the results of those that ended."""
        settle: list[Callable[[], None]] = []
        given_up = [sequence for sequence in self._active if sequence.result.done()]
        self._remove(given_up)
        for sequence in given_up:
            self._prefixes.forget(sequence.prefix)
        while joining := self._next_to_join():
            try:
                self._join(joining)
            except Exception as error:
                settle += [partial(_settle, sequence, error) for sequence in joining]
                self._prefixes.clear()
        try:
            settle += self._take_ended()
            if self._active:
                self._decode()
                settle += self._take_ended()
        except Exception as error:
            settle += [partial(_settle, sequence, error) for sequence in self._active]
            self._active, self._rows = [], CachedRows()
            self._prefixes.clear()
        return settle

    def _next_to_join(self) -> list[_Sequence]:
        """Take the waiting sequences whose prompts are computed together next."""
        with self._changed:
            if len(self._active) >= self._batch_size or not self._waiting:
                return []
            waiting, self._waiting = [s for s in self._waiting if not s.result.done()], deque()
        version = sum(parameter._version for parameter in self._model.parameters())
        if version != self._version or self._stale:
            # Sequences in progress go on with keys and values of the old weights. Nobody else may use those.
            self._version, self._stale, self._epoch = version, False, self._epoch + 1
            self._prefixes.clear()
        joining: list[_Sequence] = []
        later: list[_Sequence] = []
        longest = total = 0
        for sequence in waiting:
            source, known = self._prefixes.find(sequence.prefix)
            waits = source is not None and source.read is None and known >= _WORTH_WAITING
            known = 0 if source is None or source.read is None else min(known, len(sequence.ids) - 1)
            longest_then, total_then = max(longest, len(sequence.ids) - known), total + len(sequence.ids) - known
            padded = longest_then * (len(joining) + 1)
            if waits or len(self._active) + len(joining) >= self._batch_size or padded > max(_PADDED, 2 * total_then):
                later.append(sequence)
                continue
            longest, total = longest_then, total_then
            sequence.epoch, sequence.known = self._epoch, known
            sequence.source = source if known else None
            self._prefixes.add(sequence.prefix)
            joining.append(sequence)
        with self._changed:
            self._waiting.extendleft(reversed(later))
        return joining

    def _join(self, joining: list[_Sequence]) -> None:
        """Compute the prompts of sequences, and sample their first tokens.

        All rows end at the same column, so each one computes as many of its last tokens as the row with the most new
        ones. That takes as long as padding would.
        """
        columns = max(len(s.ids) for s in joining)
        new = max(len(s.ids) - s.known for s in joining)
        old = columns - new
        ids, positions = (torch.zeros(len(joining), new, dtype=torch.long) for _ in range(2))
        for row, sequence in enumerate(joining):
            count = min(new, len(sequence.ids))
            ids[row, new - count :] = torch.tensor(sequence.ids[-count:])
            positions[row, new - count :] = torch.arange(len(sequence.ids) - count, len(sequence.ids))
        cache = DynamicCache(_read_sources(joining, old, new))
        real = real_columns([len(s.ids) for s in joining], columns)
        logits = self._forward(ids, positions, real, cache)
        padding = ~real[:, None, :, None].to(logits.device)
        # What the model computed for padding may be no number, and 0 times that is none either.
        pairs = [(layer.keys.masked_fill_(padding, 0), layer.values.masked_fill_(padding, 0)) for layer in cache.layers]
        self._rows.append(pairs, [len(s.ids) for s in joining])
        self._active += joining
        for sequence in joining:
            sequence.source = None
            sequence.prefix.read = partial(self._read_active, sequence)
        self._sample(joining, logits)

    def _decode(self) -> None:
        ids = torch.tensor([[sequence.ids[-1]] for sequence in self._active])
        positions = torch.tensor([[len(sequence.ids) - 1] for sequence in self._active])
        self._rows.make_room()
        logits = self._forward(ids, positions, self._rows.real_with_next(), self._rows)
        self._rows.advance()
        self._sample(self._active, logits)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor, real: torch.Tensor, cache: Cache) -> torch.Tensor:
        """Return the logits after the last column."""
        device = self._model.get_input_embeddings().weight.device
        output = self._model(
            input_ids=ids.to(device),
            attention_mask=real.long().to(device),
            position_ids=positions.to(device),
            use_cache=True,
            **{self._cache_name: cache},
            **self._options,
        )
        return output.logits[:, -1]

    def _sample(self, sequences: list[_Sequence], logits: torch.Tensor) -> None:
        tokens, logprobs = draw(logits, [s.sampling for s in sequences])
        for sequence, token, logprob in zip(sequences, tokens.tolist(), logprobs.tolist(), strict=True):
            sequence.ids.append(token)
            sequence.logprobs.append(logprob)

    def _take_ended(self) -> list[Callable[[], None]]:
        ended = [sequence for sequence in self._active if sequence.finish_reason]
        for sequence in ended:
            self._prefixes.forget(sequence.prefix)
            if sequence.epoch == self._epoch and not self._stale:
                pairs = [(keys.clone(), values.clone()) for keys, values in self._read_active(sequence)]
                sequence.prefix.extend(sequence.ids[:-1])
                self._prefixes.keep(sequence.prefix, pairs)
        self._remove(ended)
        return [partial(_settle, sequence) for sequence in ended]

    def _remove(self, sequences: list[_Sequence]) -> None:
        for sequence in sequences:
            row = self._active.index(sequence)
            self._rows.remove(row)
            self._active[row] = self._active[-1]
            self._active.pop()

    def _read_active(self, sequence: _Sequence, length: int | None = None) -> Pairs:
        return self._rows.read(self._active.index(sequence), length)


def _read_sources(joining: list[_Sequence], old: int, new: int) -> Pairs | None:
    """Return the keys and values that are known of sequences, aligned to the right in `old` columns."""
    if old == 0:
        return None
    known: list[tuple[int, int, Pairs]] = []
    for row, sequence in enumerate(joining):
        read = None if sequence.source is None else sequence.source.read
        if read is not None and (count := len(sequence.ids) - new) > 0:
            known.append((row, count, read(count)))
    layers = []
    for layer, pair in enumerate(known[0][2]):
        both = [part.new_zeros(len(joining), part.shape[0], old, part.shape[2]) for part in pair]
        for row, count, pairs in known:
            for buffer, part in zip(both, pairs[layer], strict=True):
                buffer[row, :, old - count :] = part
        layers.append((both[0], both[1]))
    return layers


def draw(logits: torch.Tensor, samplings: Sequence[Sampling]) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw a token for each row of logits.

    Returns:
        The tokens, and their natural log-probabilities in the distribution that they were drawn from, after temperature
        and top_p. At temperature 0 nothing is drawn, and the log-probabilities are those of temperature 1.
    """
    logits = logits.float()
    temperatures = torch.tensor([s.temperature for s in samplings], device=logits.device)[:, None]
    logprobs = torch.log_softmax(logits / torch.where(temperatures > 0, temperatures, 1.0), dim=-1)
    if any(s.top_p < 1 and s.temperature > 0 for s in samplings):
        top_p = torch.tensor([s.top_p if s.temperature > 0 else 1.0 for s in samplings], device=logits.device)[:, None]
        ordered, order = logprobs.sort(dim=-1, descending=True)
        probabilities = ordered.exp()
        # A token stays if those before it have less than top_p together. The likeliest always stays.
        out = (probabilities.cumsum(dim=-1) - probabilities >= top_p) & (top_p < 1)
        out[:, 0] = False
        logprobs = logprobs.masked_fill(out.scatter(-1, order, out), -torch.inf)
        logprobs = torch.log_softmax(logprobs, dim=-1)
    sums = logprobs.double().exp().cumsum(dim=-1)
    # Of (0, 1], so that a token with probability 0 is never the first whose sum reaches the number.
    numbers = torch.tensor([1 - s.random.random() for s in samplings], dtype=torch.double, device=logits.device)
    drawn = torch.searchsorted(sums, numbers[:, None] * sums[:, -1:])
    tokens = torch.where(temperatures > 0, drawn, logits.argmax(dim=-1, keepdim=True))
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def _settle(sequence: _Sequence, error: Exception | None = None) -> None:
    try:
        if error is not None:
            sequence.result.set_exception(error)
        else:
            reason = sequence.finish_reason or "length"
            sequence.result.set_result(Sampled(sequence.sampled, sequence.logprobs, reason))
    except InvalidStateError:  # given up in the meantime
        return


def _call_all(calls: Iterable[Callable[[], None]]) -> None:
    for call in calls:
        call()
