"""Prompts that leave too little of the context for the answer: cut, or left as they are."""

from __future__ import annotations

from collections.abc import Callable

from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, TextTokens
from kfp_llm_batch.generation.special_tokens import Message

_CHARACTERS_PER_TOKEN = 8
"""A text with more of them for each token of the context is looked at from its ends first, not as a whole."""

EncodeOne = Callable[[list[Message]], list[int] | None]
KeptText = Callable[[str, TextTokens, int], str]
"""From a text, its tokens and how many to keep, to what is kept."""


class ContextPolicy:
    """Cuts the longest text of a conversation so that there is room for an answer.

    Args:
        name: One of CONTEXT_POLICIES that cuts.
        tokenizer: The model's.
        max_model_len: Most tokens of prompt and answer together.
    """

    def __init__(self, *, name: str, tokenizer: ChatTokenizer, max_model_len: int) -> None:
        self._kept_text = {"truncate_left": _right, "truncate_right": _left, "truncate_middle": _both}[name]
        self._tokenizer = tokenizer
        self._max_model_len = max_model_len

    def shortened(self, conversation: list[Message]) -> list[Message]:
        """The conversation without what is so far beyond the context that encoding it would be a waste.

        10 MB of text take 9 s and 1.4 GB to encode; the ends of it that may be kept, a fraction of a second.
        """
        most = _CHARACTERS_PER_TOKEN * self._max_model_len
        if all(len(message["content"]) <= most for message in conversation):
            return conversation
        return [{**message, "content": self._shortened_text(message["content"])} for message in conversation]

    def cut(
        self, conversation: list[Message], token_ids: list[int], max_tokens: int, encode: EncodeOne
    ) -> list[int] | None:
        """Token ids of the conversation after its longest text was cut; None if it fits, or cannot be made to."""
        most = self._max_model_len - max(1, min(max_tokens, self._max_model_len // 2))
        if len(token_ids) <= most:
            return None
        texts = [self._tokenizer.text_tokens(message["content"]) for message in conversation]
        index = max(range(len(texts)), key=lambda number: (len(texts[number]), number))
        message, tokens = conversation[index], texts[index]
        keep, excess, factor = len(tokens), len(token_ids) - most, 1
        while (keep := keep - factor * excess) > 0:
            kept = self._kept_text(message["content"], tokens, keep)
            shorter = encode([*conversation[:index], {**message, "content": kept}, *conversation[index + 1 :]])
            if shorter is None or len(shorter) <= most:
                return shorter
            # A text's end is encoded differently from its middle, so that a token or two may still be too many.
            excess, factor = len(shorter) - most, 2 * factor
        return None

    def _shortened_text(self, text: str) -> str:
        left = right = text
        if self._kept_text is not _right:
            left = self._end_of(text, lambda width: text[:width], _left)
        if self._kept_text is not _left:
            right = self._end_of(text, lambda width: text[-width:], _right)
        if self._kept_text is _both:
            return left + right if len(left) + len(right) < len(text) else text
        return min(left, right, key=len)

    def _end_of(self, text: str, end: Callable[[int], str], kept_text: KeptText) -> str:
        """So much of one end of a text as the context has tokens."""
        width = _CHARACTERS_PER_TOKEN * self._max_model_len
        while width < len(text):
            tokens = self._tokenizer.text_tokens(end(width))
            if len(tokens) > self._max_model_len:
                return kept_text(end(width), tokens, self._max_model_len)
            width *= 4
        return text


def _left(text: str, tokens: TextTokens, keep: int) -> str:
    return text[: _characters(tokens, keep - 1)[1]]


def _right(text: str, tokens: TextTokens, keep: int) -> str:
    return text[_characters(tokens, len(tokens) - keep)[0] :]


def _both(text: str, tokens: TextTokens, keep: int) -> str:
    _, head = _characters(tokens, (keep + 1) // 2 - 1)
    if keep == 1:
        return text[:head]
    tail, _ = _characters(tokens, len(tokens) - keep // 2)
    return text[:head] + text[max(head, tail) :]  # one character may be several tokens: it must not be kept twice


def _characters(tokens: TextTokens, index: int) -> tuple[int, int]:
    return tokens.token_to_chars(index) or (0, 0)
