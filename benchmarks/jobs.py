"""The work that every contestant does: the same rows, the same token ids, the same greedy decoding."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from benchmarks.answers import common_length
from benchmarks.peers.protocol import Job, Message
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer

CONTEXT_TOKENS = 2048
"""Enough for every job; who must set a context sets this one."""


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """A job by its shape."""

    name: str
    rows: int
    max_tokens: int
    prefix_tokens: int = 0
    """Length of a system message that all rows share, about."""
    is_cold: bool = False
    """Whether one round with empty caches is measured as well."""

    def prefill_only(self) -> JobKind:
        """The same prompts with one token of answer each, which tells what the prefill takes."""
        return dataclasses.replace(self, name=f"{self.name}-prefill", max_tokens=1, is_cold=False)


JOBS = {
    kind.name: kind
    for kind in (
        JobKind(name="gsm8k-256", rows=256, max_tokens=128, is_cold=True),
        JobKind(name="gsm8k-1319", rows=1319, max_tokens=128),
        JobKind(name="shared-prefix", rows=256, max_tokens=128, prefix_tokens=600),
        JobKind(name="long-outputs", rows=128, max_tokens=512),
        JobKind(name="one-row", rows=1, max_tokens=128, is_cold=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class JobMaker:
    """Makes jobs for one model from one dataset."""

    dataset: Path
    """GSM8K as JSON lines with a column `question`."""
    model: Path
    threads: int
    folder: Path

    def make(self, kind: JobKind, row_limit: int | None) -> Job:
        """Render and tokenize the rows once, for all; the prompts of our own step are written as well."""
        folder = self.folder / kind.name
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = ModelTokenizer(self.model)
        prefix = _prefix(tokenizer, kind.prefix_tokens)
        conversations = [
            [*prefix, {"role": "user", "content": question}] for question in self._questions(kind, row_limit)
        ]
        self._write_prompts(conversations, folder)
        prompts = tokenizer.encode(conversations)
        return Job(
            name=kind.name,
            model=str(self.model),
            messages=conversations,
            prompts=prompts,
            max_tokens=kind.max_tokens,
            shared_prefix_tokens=common_length(min(prompts), max(prompts)) if prefix else 0,
            context_tokens=CONTEXT_TOKENS,
            threads=self.threads,
            dataset=str(folder / "rows.jsonl"),
            prompts_folder=str(folder / "prompts"),
        )

    def _questions(self, kind: JobKind, row_limit: int | None) -> Iterator[str]:
        rows = min(kind.rows, row_limit or kind.rows)
        with self.dataset.open(encoding="utf-8") as file:
            yield from (json.loads(line)["question"] for line in islice(file, rows))

    def _write_prompts(self, conversations: list[list[Message]], folder: Path) -> None:
        path = folder / "rows.jsonl"
        lines = (json.dumps({"id": str(row), "messages": each}) for row, each in enumerate(conversations))
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        load_dataset(
            DatasetConfig(uri=str(path), id_column="id", prompt_messages_column="messages"), folder / "prompts"
        )


def _prefix(tokenizer: ModelTokenizer, tokens: int) -> list[Message]:
    """A system message of about `tokens` tokens, whose sentences all differ."""
    if not tokens:
        return []
    sentences = (
        f"Rule {number}: when a question names {number * 7} things or more, state step {number} before the result."
        for number in range(1, tokens)
    )
    text = next(text for text in accumulate(sentences, "{} {}".format) if len(tokenizer.text_tokens(text)) >= tokens)
    return [{"role": "system", "content": text}]
