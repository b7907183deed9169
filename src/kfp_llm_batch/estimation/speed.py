"""How fast an engine is: what a step costs by itself, and what each token adds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Round:
    """Requests that an engine answered together, and how long that took; of one engine, where there are several."""

    kind: str
    """Rounds of one kind measure the same."""
    steps: float
    """Scheduler steps."""
    prompt_tokens: float
    """Computed, those not counted that a cache held."""
    new_tokens: float
    """After the first of each answer, which comes with its prompt."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds of one engine."""

    step: float
    """Of every step, however few requests run: reading the weights, scheduling."""
    prompt_token: float
    new_token: float

    def seconds(self, steps: float, prompt_tokens: float, new_tokens: float) -> float:
        """How long an engine takes for so much work."""
        return self.step * steps + self.prompt_token * prompt_tokens + self.new_token * new_tokens

    def seconds_of(self, measured: Round) -> float:
        """How long the work of a round takes."""
        return self.seconds(measured.steps, measured.prompt_tokens, measured.new_tokens)


def fit(rounds: Sequence[Round]) -> Speed:
    """The speed that explains all rounds best, in relative errors, and that has no negative part."""
    work = np.array([[entry.steps, entry.prompt_tokens, entry.new_tokens] for entry in rounds], dtype=float)
    seconds = np.maximum([entry.seconds for entry in rounds], 1e-9)
    scaled, best, least = work / seconds[:, None], np.zeros(3), np.inf
    for used in itertools.chain.from_iterable(itertools.combinations(range(3), count) for count in (1, 2, 3)):
        found = np.zeros(3)
        found[list(used)] = np.linalg.lstsq(scaled[:, list(used)], np.ones(len(rounds)), rcond=None)[0]
        error = float(((scaled @ found - 1) ** 2).sum())
        if (found >= 0).all() and error < least:
            best, least = found, error
    return Speed(step=float(best[0]), prompt_token=float(best[1]), new_token=float(best[2]))
