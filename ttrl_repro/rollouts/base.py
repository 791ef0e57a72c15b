"""What every sampling engine shares: the request, the result, and how a token is picked.

Shapes, here and everywhere: Q questions, N samples per question, T new tokens, R rows (R = Q * N at
most), V vocabulary.

Every question has its own stream of uniform numbers, named by (seed, question id), from which sample n
takes the n-th row of max_new_tokens numbers; a token is picked by inverting the cumulative distribution
at its number. Samples therefore do not depend on which other questions or samples share the batch, and
two engines given equal log-probabilities pick equal tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ttrl_repro.seeds import generator


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled. Temperature 0 is greedy (then `top_p` has no effect)."""

    temperature: float
    top_p: float
    max_new_tokens: int

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1], got {self.top_p}")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be 1 or more, got {self.max_new_tokens}")


@dataclass(frozen=True)
class Samples:
    """Completions of Q questions, N each. Entries past a row's length are padding (0).

    tokens_QNT: token ids, int64, the end-of-sequence token included where one was sampled.
    lengths_QN: number of tokens, at least 1.
    finished_QN: whether the completion ended by itself (False: cut at max_new_tokens).
    logprobs_QNT: log-probability of each token under the sampling temperature (before `top_p`), fp32.
    entropies_QNT: entropy in nats of the distribution that each token came from (before `top_p`), fp32.
    certainties_QNT: self-certainty, KL(uniform || p) = -log V - mean over the vocabulary of log p, in nats, of the same
    distribution, fp32 (infinite where a token has probability 0); None where the engine sees no distributions.
    For greedy decoding all three are those of temperature 1.
    """

    tokens_QNT: np.ndarray
    lengths_QN: np.ndarray
    finished_QN: np.ndarray
    logprobs_QNT: np.ndarray
    entropies_QNT: np.ndarray
    certainties_QNT: np.ndarray | None = None

    @classmethod
    def of_rows(
        cls,
        n: int,
        tokens_RT: np.ndarray,
        lengths_R: np.ndarray,
        finished_R: np.ndarray,
        logprobs_RT: np.ndarray,
        entropies_RT: np.ndarray,
        certainties_RT: np.ndarray | None = None,
    ) -> Samples:
        """From one row per sample, in order of the questions, `n` rows each."""
        rows = [tokens_RT, lengths_R, finished_R, logprobs_RT, entropies_RT]
        if certainties_RT is not None:
            rows.append(certainties_RT)
        return cls(*(array.reshape(-1, n, *array.shape[1:]) for array in rows))

    def ids(self, q: int, n: int) -> list[int]:
        """Token ids of one completion."""
        return self.tokens_QNT[q, n, : self.lengths_QN[q, n]].tolist()

    def logprobs(self, q: int, n: int) -> list[float]:
        """Log-probabilities of one completion's tokens."""
        return self.logprobs_QNT[q, n, : self.lengths_QN[q, n]].tolist()

    @property
    def n_tokens(self) -> int:
        """All sampled tokens."""
        return int(self.lengths_QN.sum())


class Engine(Protocol):
    """A way to sample completions from the live model (its weights are read at each call).

    full_precision: on a CPU it computes in fp32, as the trainer does; log-probabilities then agree to rounding.
    sees_distributions: entropies and certainties are those of the distributions that tokens came from. Otherwise
    entropies are estimates, and there are no certainties.
    """

    name: str
    full_precision: bool
    sees_distributions: bool

    def sample(
        self,
        prompts: list[list[int]],
        uniforms_QNT: np.ndarray,
        sampling: Sampling,
        report: Callable[[int], None] = ...,
    ) -> Samples:
        """N completions of each prompt (token ids); `uniforms_QNT` as from `uniforms`.

        `report(rows)` is called whenever that many more samples are finished.
        """
        ...


def uniforms(seed: int, question_ids: list[str], n: int, max_new_tokens: int) -> np.ndarray:
    """The samples' uniform numbers in [0, 1), (Q, N, T) float64, a stream per question."""
    return np.stack([generator(seed, "sample", question).random((n, max_new_tokens)) for question in question_ids])


def pick(
    logits_RV: torch.Tensor, uniforms_R: torch.Tensor, sampling: Sampling
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One token per row: ids (int64), log-probabilities, entropies and certainties (fp32), each (R,).

    The nucleus (`top_p`) is the smallest set of most probable tokens with at least that mass
    (Holtzman et al. 2020); the token is drawn from it, renormalised.
    """
    temperature = sampling.temperature or 1.0
    logp_RV = torch.log_softmax(logits_RV.float() / temperature, dim=-1)
    p_RV = logp_RV.exp()
    # A token of probability 0 has log-probability -inf; 0 * -inf counts as 0.
    entropy_R = -(p_RV * logp_RV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
    certainty_R = -math.log(logp_RV.shape[-1]) - logp_RV.mean(-1)
    if sampling.temperature == 0:
        token_R = logits_RV.argmax(-1)
    elif sampling.top_p < 1:
        sorted_RV, order_RV = p_RV.double().sort(dim=-1, descending=True, stable=True)
        cdf_RV = sorted_RV.cumsum(-1)
        kept_RV = sorted_RV.masked_fill(cdf_RV - sorted_RV >= sampling.top_p, 0.0)
        token_R = order_RV.gather(-1, _invert(kept_RV, uniforms_R)[:, None])[:, 0]
    else:
        token_R = _invert(p_RV.double(), uniforms_R)
    return token_R, logp_RV.gather(-1, token_R[:, None])[:, 0], entropy_R, certainty_R


def _invert(mass_RV: torch.Tensor, uniforms_R: torch.Tensor) -> torch.Tensor:
    """Index at which the cumulative (unnormalised) mass first exceeds u times the total."""
    cdf_RV = mass_RV.cumsum(-1)
    target_R1 = uniforms_R.to(cdf_RV)[:, None] * cdf_RV[:, -1:]
    index_R = torch.searchsorted(cdf_RV, target_R1, right=True)[:, 0]
    # u * total may round up to the total: then the last token with any mass is meant.
    last_R = mass_RV.shape[-1] - 1 - (mass_RV.flip(-1) > 0).to(torch.int8).argmax(-1)
    return torch.minimum(index_R, last_R)
