"""Shards of equal work, by nothing but the identity of the rows."""

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.schemas import MESSAGES
from kfp_llm_batch.sharding.dealing import BucketCounts, buckets_of, deal
from kfp_llm_batch.sharding.splitting import TOKENS_PER_MESSAGE, prompt_tokens

AROUND = 30
"""Tokens that the demo model's chat template puts around a question."""
GSM8K = Path(__file__).parents[4] / "shared/data/gsm8k_test.jsonl"


def sums(ids: list[str], tokens: np.ndarray, shards: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and tokens of each shard."""
    counts = BucketCounts()
    counts.add(ids, tokens)
    owners = deal(counts, shards)[buckets_of(ids)]
    return np.bincount(owners, minlength=shards), np.bincount(owners, weights=tokens, minlength=shards)


def spread(values: np.ndarray) -> float:
    return float((values.max() - values.min()) / values.mean())


def skewed(rows: int) -> np.ndarray:
    """Lengths of which one in a hundred is thirty times the median."""
    return np.random.default_rng(7).lognormal(5, 1.5, rows).astype(np.int64) + 1


@pytest.mark.parametrize("shards", [1, 2, 20, 64])
@pytest.mark.parametrize("rows", [13_190, 60_000])
def test_shards_are_equal_in_tokens_and_in_rows(shards, rows):
    found = sums([f"row-{index}" for index in range(rows)], skewed(rows), shards)
    assert found[0].sum() == rows
    assert [spread(values) < 0.05 for values in found] == [True, True], [spread(values) for values in found]


@pytest.fixture(scope="module")
def skewed_gsm8k() -> tuple[list[str], np.ndarray]:
    """GSM8K ten times, its questions repeated in themselves, some of them often; and their real tokens."""
    chance = random.Random(1)
    lines = [json.loads(line)["question"] for line in GSM8K.read_text("utf-8").splitlines()]
    times = [min(40, int(chance.paretovariate(1.2))) for _ in lines * 10]
    tokenizer = ModelTokenizer(resolve_model("demo://smollm2-135m-instruct").folder)
    lengths = [len(ids) for ids in tokenizer.encode([[{"role": "user", "content": line}] for line in lines])]
    texts = [line * count for line, count in zip(lines * 10, times, strict=True)]
    return texts, AROUND + (np.array(lengths * 10) - AROUND) * np.array(times)


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K is not beside the checkout")
@pytest.mark.parametrize("shards", [2, 20, 64])
def test_real_tokens_are_balanced_by_their_estimate(skewed_gsm8k, shards):
    questions, real_tokens = skewed_gsm8k
    ids = [str(index) for index in range(len(questions))]
    counts = BucketCounts()
    counts.add(ids, prompt_tokens(conversations([[text] for text in questions])))
    owners = deal(counts, shards)[buckets_of(ids)]
    assert spread(np.bincount(owners, weights=real_tokens)) < 0.05
    assert spread(np.bincount(owners)) < 0.05


def test_a_row_stays_in_its_shard_wherever_it_stands():
    ids = [f"row-{index}" for index in range(3_000)]
    order = np.random.default_rng(3).permutation(len(ids))
    owners = []
    for places in (np.arange(len(ids)), order):
        counts = BucketCounts()
        for start in range(0, len(ids), 1_000):
            part = places[start : start + 1_000]
            counts.add([ids[place] for place in part], skewed(len(ids))[part])
        owners.append(deal(counts, 5)[buckets_of(ids)].tolist())
    assert owners[0] == owners[1]


def test_few_rows_and_none():
    assert sorted(sums(["a", "b", "c"], np.array([5, 5, 5]), 3)[0].tolist()) == [1, 1, 1]
    assert sums([], np.array([], np.int64), 2)[0].tolist() == [0, 0]


def conversations(texts: list[list[str | None]]) -> pa.Array:
    return pa.array([[{"role": "user", "content": text} for text in row] for row in texts], MESSAGES)


def test_tokens_are_estimated_by_words_digits_and_signs():
    texts: list[list[str | None]] = [["Two words, 42."], [], ["a", "incomprehensible"], ["\u4f60\u597d"], [None]]
    messages = TOKENS_PER_MESSAGE * np.array([1, 0, 2, 1, 1])
    assert (prompt_tokens(conversations(texts)) - messages).tolist() == [6, 0, 3, 2, 0]
    assert (prompt_tokens(conversations(texts).slice(2, 2)) - messages[2:4]).tolist() == [3, 2]
