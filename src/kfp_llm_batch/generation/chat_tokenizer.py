"""Messages to token ids by the model's own chat template, in the light parent: no torch, no vllm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

from kfp_llm_batch.engine import echo
from kfp_llm_batch.errors import ConfigurationError

Message = dict[str, str]

_GENERIC_CLASSES = frozenset({"PreTrainedTokenizerFast", "TokenizersBackend"})
"""Tokenizers that tokenizer.json describes whole; loading them by name spares the import of torch (4 s)."""


class ChatTokenizer(Protocol):
    """Renders conversations to what the engine is fed."""

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """Token ids of each conversation, the generation prompt included.

        Raises:
            ValueError: The chat template refuses a conversation.
        """


class EchoTokenizer:
    """Bytes as tokens, for `echo://`."""

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """See ChatTokenizer."""
        return [
            [token for message in conversation for token in self._message(message)] + [echo.END_OF_PROMPT]
            for conversation in conversations
        ]

    @staticmethod
    def _message(message: Message) -> list[int]:
        role, content = message["role"].encode(), message["content"].encode()
        return [echo.START_OF_MESSAGE, *role, echo.END_OF_ROLE, *content]


class ModelTokenizer:
    """The tokenizer and chat template of a model's folder."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _load(folder)
        if self._tokenizer.chat_template is None:
            raise ConfigurationError(
                "The model's tokenizer has no chat template",
                received=str(folder),
                remedy="Use an instruction-tuned model, or add chat_template.jinja to the model's folder.",
            )

    def encode(self, conversations: list[list[Message]]) -> list[list[int]]:
        """See ChatTokenizer; the template alone decides on special tokens, so that there is one BOS at most."""
        ids: list[list[int]] = self._tokenizer.apply_chat_template(
            conversations, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        return ids


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
            f"The engine's packages are not installed: {error}", remedy="Run: pip install 'kfp-llm-batch[vllm]'"
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"The model's tokenizer cannot be loaded: {error}", received=str(folder)) from error
