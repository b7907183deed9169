"""Special tokens that stand in a text of the dataset are text: they must not act as the chat template's own."""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Any

Message = dict[str, str]
Render = Callable[[list[Message]], str]

_PRIVATE_USE = range(0xF0000, 0xFFFFE)
_NAME_LENGTH = 8
"""Characters of a new name, each one of 65,534: nobody guesses it."""

_CANNOT = "this model's tokenizer cannot take it as text"


class SpecialTokenError(ValueError):
    """A conversation with a special token in one of its texts, which cannot or shall not be answered."""


class SpecialTokens:
    """Finds special tokens in texts, and encodes such texts without giving them a meaning.

    The chat template is rendered with marks in place of the tokens in the texts. What then looks like a special token
    is the template's own and gets a secret name; the marks become text again. A second tokenizer, which knows the
    special tokens by their secret names alone, encodes all of it at once.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if is_fast(tokenizer) else None
        # Some files call the end of a text an added token and not a special one; it is one by its role.
        roles = set(tokenizer.all_special_tokens)
        added = [token for token in tokenizer.added_tokens_decoder.values() if token.special or token.content in roles]
        # The tokenizer takes the longest of several that begin at the same place.
        self._texts = sorted({token.content for token in added}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._texts)) or r"(?!)")
        self._is_plain = not any(token.single_word for token in added)
        is_normalized = any(token.normalized for token in added)
        self._normalizer = self._backend.normalizer if self._backend and is_normalized else None

    def find(self, conversation: Iterable[Message]) -> tuple[str, str] | None:
        """The first special token in a text, and the role of its message."""
        for message in conversation:
            if found := self._search(message["content"]):
                return found, message["role"]
        return None

    def encode(self, conversation: list[Message], render: Render) -> list[int]:
        """Token ids of a conversation, special tokens in its texts as text.

        Raises:
            SpecialTokenError: This tokenizer cannot tell the two apart.
        """
        mark = self._unused_character(conversation)
        numbers = {text: f"{mark}{number}{mark}" for number, text in enumerate(self._texts)}
        marked = [
            {**message, "content": self._pattern.sub(lambda found: numbers[found[0]], message["content"])}
            for message in conversation
        ]
        renamed = self._pattern.sub(lambda found: self._names[found[0]], render(marked))
        text = re.sub(f"{mark}([0-9]+){mark}", lambda found: self._texts[int(found[1])], renamed)
        ids: list[int] = self.plain.encode(text, add_special_tokens=False).ids
        return ids

    @functools.cached_property
    def plain(self) -> Any:
        """The tokenizer to which special tokens are text, unless they go by their secret names.

        Raises:
            SpecialTokenError: It cannot be made of this tokenizer.
        """
        from tokenizers import Tokenizer  # one of the engine's packages, which a submitting machine may lack

        if self._backend is None or not self._is_plain:
            raise SpecialTokenError(_CANNOT)
        try:
            plain = Tokenizer.from_str(_renamed(self._backend.to_str(), self._names))
        except Exception as error:  # tokenizers raises nothing more special
            raise SpecialTokenError(_CANNOT) from error
        if any(plain.token_to_id(self._names[text]) != self._backend.token_to_id(text) for text in self._texts):
            raise SpecialTokenError(_CANNOT)
        return plain

    @functools.cached_property
    def _names(self) -> dict[str, str]:
        return {text: "".join(chr(secrets.choice(_PRIVATE_USE)) for _ in range(_NAME_LENGTH)) for text in self._texts}

    def _search(self, text: str) -> str | None:
        found = self._pattern.search(text)
        if not found and self._normalizer:
            found = self._pattern.search(self._normalizer.normalize_str(text))
        return found[0] if found else None

    def _unused_character(self, conversation: list[Message]) -> str:
        used = set(str(self._tokenizer.chat_template)).union(*self._texts)
        used = used.union(*(value for message in conversation for value in message.values()))
        unused = next((chr(code) for code in _PRIVATE_USE if chr(code) not in used), None)
        if unused is None:
            raise SpecialTokenError("the texts use every private character of Unicode")
        return unused


def is_fast(tokenizer: Any) -> bool:
    """Whether a tokenizer of transformers is one of the library `tokenizers`."""
    return bool(getattr(tokenizer, "is_fast", False))


def _renamed(source: str, names: dict[str, str]) -> str:
    """The JSON of a tokenizer with its special tokens, and no others, under new names."""
    description = json.loads(source)
    for token in description["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = description["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): number for piece, number in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    return json.dumps({**description, "post_processor": None, "truncation": None, "padding": None})
