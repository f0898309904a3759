"""pass@k and pass^k of a group of rollouts. Pure."""

from __future__ import annotations

import math


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Return the probability that at least one of `k` rollouts of a prompt succeeds, estimated without bias.

    `1 - C(n - c, k) / C(n, k)`: the share of all choices of k among the n rollouts that hold a success. The plain
    `1 - (1 - c / n) ** k` is too low. Source: Chen et al., Evaluating Large Language Models Trained on Code, arXiv
    2107.03374, section 2.1.

    Raises:
        ValueError: k is not between 1 and `samples`, or there are more successes than samples.
    """
    _check(samples, successes, k)
    return 1 - math.comb(samples - successes, k) / math.comb(samples, k)


def pass_power_k(samples: int, successes: int, k: int) -> float:
    """Return the probability that all of `k` rollouts of a prompt succeed (pass^k), estimated without bias.

    `C(c, k) / C(n, k)`: the share of all choices of k among the n rollouts that are all successes. Source: Yao et al.,
    tau-bench, arXiv 2406.12045.

    Raises:
        ValueError: k is not between 1 and `samples`, or there are more successes than samples.
    """
    _check(samples, successes, k)
    return math.comb(successes, k) / math.comb(samples, k)


def ks_up_to(group_size: int) -> tuple[int, ...]:
    """Return the k that are worth showing: 1, 2, 4, ... as in the service's `pass_k_values`, and the group's size.

    The size is among them because pass@G shows how hard the prompts are for training with groups of G.
    """
    powers = [1 << exponent for exponent in range(group_size.bit_length())]
    return tuple(sorted({*powers, group_size})) if group_size > 0 else ()


def _check(samples: int, successes: int, k: int) -> None:
    if not 1 <= k <= samples or not 0 <= successes <= samples:
        raise ValueError(f"no pass@{k} of {samples} rollouts with {successes} successes")
