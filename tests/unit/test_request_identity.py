import hashlib
import struct

import pytest

from kfp_llm_batch.generation.identity import request_key, sample_seed, settings_digest

SAMPLING = {"max_tokens": 8, "temperature": 0.7, "seed": 1}
BASE = settings_digest(SAMPLING, "model", {"dtype": "bfloat16"})


@pytest.mark.parametrize(
    ("settings", "token_ids"),
    [
        (BASE, [1, 2, 4]),
        (BASE, [1, 2]),
        (settings_digest(SAMPLING | {"max_tokens": 9}, "model", {"dtype": "bfloat16"}), [1, 2, 3]),
        (settings_digest(SAMPLING | {"seed": 2}, "model", {"dtype": "bfloat16"}), [1, 2, 3]),
        (settings_digest(SAMPLING, "other", {"dtype": "bfloat16"}), [1, 2, 3]),
        (settings_digest(SAMPLING, "model", {"dtype": "float32"}), [1, 2, 3]),
    ],
    ids=["token", "length", "max_tokens", "seed", "model", "dtype"],
)
def test_what_changes_the_answer_changes_the_key(settings, token_ids):
    assert request_key(settings, token_ids) != request_key(BASE, [1, 2, 3])


def test_the_key_has_a_fixed_canonical_form():
    reordered = settings_digest(dict(reversed(SAMPLING.items())), "model", {"dtype": "bfloat16"})
    assert reordered == BASE
    canonical = (
        b'{"engine":{"dtype":"bfloat16"},"model":"model",'
        b'"sampling":{"max_tokens":8,"seed":1,"temperature":0.7},"version":1}'
    )
    expected = hashlib.sha256(hashlib.sha256(canonical).digest() + struct.pack("<3I", 1, 2, 3)).hexdigest()
    assert request_key(BASE, [1, 2, 3]) == expected


def test_seeds_differ_by_run_request_and_sample_and_fit_63_bits():
    seeds = {sample_seed(run, key, sample) for run in (0, 1) for key in ("a", "b") for sample in range(3)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
