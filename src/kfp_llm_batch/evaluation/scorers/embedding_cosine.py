"""How close the answer is in meaning to the target, by a model's embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.evaluation.scorers.protocol import (
    FloatArray,
    Metric,
    PreparedScorer,
    Row,
    Score,
    Scorer,
    best_of_targets,
    target_texts,
)
from kfp_llm_batch.models.resolving import Model, resolve_model

_TEXTS_AT_ONCE = 32
_MOST_TOKENS = 2_048
_LOG = logging.getLogger("kfp_llm_batch")

Embeddings = Mapping[str, FloatArray]


@dataclass(frozen=True, kw_only=True)
class EmbeddingCosine:
    """Cosine of answer and target: the mean of the model's last hidden states over the text's tokens.

    A text without tokens has no meaning, and a cosine of 0. Longer texts than 2,048 tokens are cut.
    """

    version: ClassVar[int] = 1
    needs_target: ClassVar[bool] = True
    metrics: ClassVar[Sequence[Metric]] = (Metric(name="embedding_cosine"),)

    model_uri: str
    """An encoder such as all-MiniLM-L6-v2, or any model with safetensors: as the parameter model_uri."""
    model_revision: str | None = None

    def __post_init__(self) -> None:
        if self.model_uri == "echo://":
            raise ConfigurationError("Scorer embedding_cosine: echo:// has no embeddings", received=self.model_uri)

    def prepare(self, rows: Callable[[], Iterator[Row]], folder: Path) -> Scorer:
        """Embed every different answer and target once."""
        texts = {text for row in rows() for text in (*target_texts(row), *(answer.text for answer in row.answers))}
        model = resolve_model(self.model_uri, self.model_revision)
        _LOG.info("Embedding %d texts with %s.", len(texts), model.uri)
        return PreparedScorer(origin=self, score_row=partial(_score, embeddings=_embedded(model, texts)))

    def score(self, row: Row) -> Score | None:
        """Nothing is known of a row before its texts were embedded."""
        return None


def _score(row: Row, *, embeddings: Embeddings) -> Score:
    def cosine(answer: str, target: str) -> float:
        vectors = embeddings.get(answer), embeddings.get(target)
        return float(vectors[0] @ vectors[1]) if vectors[0] is not None and vectors[1] is not None else 0.0

    return Score((best_of_targets(row, cosine),))


def _embedded(model: Model, texts: set[str]) -> dict[str, FloatArray]:
    """Vectors of length 1; none for a text without tokens."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model.folder)
    encoder: Any = AutoModel.from_pretrained(model.folder, dtype=torch.float32).eval()
    most = min(model.facts.max_model_len, _MOST_TOKENS)
    # Texts of about the same length together, so that little is padded.
    encoded = {text: tokenizer(text, truncation=True, max_length=most)["input_ids"] for text in texts}
    ordered = sorted((text for text in texts if encoded[text]), key=lambda text: (len(encoded[text]), text))
    found: dict[str, FloatArray] = {}
    for start in range(0, len(ordered), _TEXTS_AT_ONCE):
        batch = ordered[start : start + _TEXTS_AT_ONCE]
        with torch.inference_mode():
            found.update(zip(batch, _mean_states(encoder, [encoded[text] for text in batch]), strict=True))
    return found


def _mean_states(encoder: Any, token_ids: Sequence[Sequence[int]]) -> FloatArray:
    import torch

    width = max(map(len, token_ids))
    # Padding is masked, so that any token will do.
    padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in token_ids])
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in token_ids])
    states = encoder(input_ids=padded, attention_mask=mask).last_hidden_state
    sums = (states * mask[:, :, None]).sum(dim=1)
    means = np.asarray((sums / mask.sum(dim=1, keepdim=True)).numpy(), dtype=np.float64)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    return np.asarray(means / np.where(lengths > 0, lengths, 1.0))
