"""Tokens of prompts before there is a tokenizer, counted as most tokenizers begin: words, digits and signs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

TOKENS_PER_MESSAGE = 4
"""What chat templates put around one."""

_PIECES = r"[0-9]|[A-Za-z]{1,8}|[^\sA-Za-z0-9]"
"""On GSM8K the real tokens of a question differ from these by 7 % (standard deviation), from its bytes by 11 %."""


def prompt_tokens(messages: pa.Array) -> npt.NDArray[np.int64]:
    """About how many tokens each row's messages have.

    Args:
        messages: The column `messages` of some prompts.
    """
    contents = messages.flatten().field("content")
    pieces = pc.fill_null(pc.count_substring_regex(contents, _PIECES), 0).to_numpy(zero_copy_only=False)
    counts = pc.fill_null(pc.list_value_length(messages), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(pieces, dtype=np.int64)])
    ends = np.cumsum(counts)
    tokens: npt.NDArray[np.int64] = sums[ends] - sums[ends - counts] + TOKENS_PER_MESSAGE * counts
    return tokens
