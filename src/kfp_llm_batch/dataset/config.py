"""What `load_dataset` is asked to do: which dataset, and how its rows become prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.steps import from_parameters
from kfp_llm_batch.storage.uris import SCHEMES, split_uri

FORMATS = ("auto", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "saved", "openai")


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """A dataset and the rendering of its rows; checks itself."""

    uri: str
    """A file, a folder, a wildcard, or a dataset of the Hugging Face hub (`hf://org/name`)."""
    format: str = "auto"
    """One of FORMATS; `auto` goes by the extension, and by the first row for OpenAI batch lines."""
    config: str | None = None
    """Configuration of a hub dataset."""
    split: str | None = None
    """Split of a hub dataset or a saved folder; None takes the only one, and is an error if there are several."""
    revision: str | None = None
    """Branch, tag or commit of a hub dataset; None is the newest."""
    limit: int | None = None
    """Read this many rows at most."""
    id_column: str | None = None
    """Column with the unique identity of each row; None numbers the rows from 0."""
    prompt_template: str | None = None
    """Jinja2 over the row's columns; `row` is the whole row, for columns whose names are no identifiers."""
    prompt_system: str | None = None
    """Literal text of a system message, used where the row brings none of its own."""
    prompt_messages_column: str | None = None
    """Column with a ready list of messages, or its JSON text."""
    prompt_examples: Sequence[Mapping[str, str]] | None = None
    """Pairs {"user": ..., "assistant": ...} put between the system message and the row's own messages."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """The dataset that a step's parameters describe."""
        return from_parameters(cls, parameters, "dataset_")

    def __post_init__(self) -> None:
        """Check everything that can be known before the dataset is opened."""
        scheme, _ = split_uri(self.uri, SCHEMES)
        if self.format not in FORMATS:
            raise ConfigurationError("dataset_format is unknown", received=self.format, allowed=FORMATS)
        if self.limit is not None and self.limit < 1:
            raise ConfigurationError("dataset_limit is not a positive number", received=self.limit)
        self._check_hub_parameters(scheme)
        self._check_prompt_parameters()
        self._check_texts()

    def _check_hub_parameters(self, scheme: str) -> None:
        if scheme == "hf":
            if self.format != "auto":
                raise ConfigurationError(
                    "dataset_format does not apply to a dataset of the hub", received=self.format, allowed=["auto"]
                )
            return
        for name in ("config", "revision"):
            if value := getattr(self, name):
                raise ConfigurationError(
                    f"dataset_{name} applies to datasets of the hub alone",
                    received=value,
                    remedy="Leave it out, or give dataset_uri as hf://org/name.",
                )

    def _check_prompt_parameters(self) -> None:
        if self.prompt_template is not None and self.prompt_messages_column is not None:
            raise ConfigurationError(
                "prompt_template and prompt_messages_column are both given", remedy="Give exactly one of them."
            )
        given = self.prompt_template is not None or self.prompt_messages_column is not None
        if self.format == "openai" and given:
            raise ConfigurationError(
                "OpenAI batch lines bring their own messages",
                remedy="Leave out prompt_template and prompt_messages_column, or set dataset_format to jsonl.",
            )
        if self.prompt_template is not None and not self.prompt_template.strip():
            raise ConfigurationError("prompt_template is empty", remedy='Name a column in it, as in "{{ question }}".')

    def _check_texts(self) -> None:
        texts = {"prompt_template": self.prompt_template, "prompt_system": self.prompt_system}
        for number, example in enumerate(self.prompt_examples or (), start=1):
            if not _is_example(example):
                raise ConfigurationError(
                    f"prompt_examples: example {number} is not a pair of texts",
                    received=example,
                    remedy='Write each as {"user": "...", "assistant": "..."}.',
                )
            texts |= {f"prompt_examples: {role} text of example {number}": text for role, text in example.items()}
        for name, text in texts.items():
            if text is not None and not is_clean_text(text):
                raise ConfigurationError(f"{name} holds a NUL or half of a surrogate pair", remedy="Remove it.")


def _is_example(example: object) -> bool:
    """Whether it is what its type says: examples come out of JSON, unchecked."""
    if not isinstance(example, Mapping) or set(example) != {"user", "assistant"}:
        return False
    return all(isinstance(text, str) for text in example.values())


def is_clean_text(text: str) -> bool:
    """Whether `text` can be stored as UTF-8 and handed to a tokenizer: no lone surrogate, no NUL."""
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
