"""Identity of a request: what is answered and everything that changes the answer, nothing else.

    request_key = sha256( sha256(canonical JSON of the settings) + token ids as little-endian 32-bit integers )

Settings are the effective sampling parameters with the run's seed, the digest of the model's weights and tokenizer,
and the engine settings that change answers. Position, shard, batch size and thread count are left out.
"""

from __future__ import annotations

import hashlib
import json
import sys
from array import array
from collections.abc import Mapping, Sequence
from typing import Any


def settings_digest(sampling: Mapping[str, Any], model_digest: str, answer_settings: Mapping[str, Any]) -> bytes:
    """Digest of all that rows may share; compute it once per distinct set of sampling parameters."""
    settings = {"version": 1, "sampling": sampling, "model": model_digest, "engine": answer_settings}
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(canonical.encode("ascii")).digest()


def request_key(settings: bytes, token_ids: Sequence[int]) -> str:
    """The key of one request, 64 hexadecimal digits."""
    words = array("I", token_ids)
    if sys.byteorder == "big":
        words.byteswap()
    return hashlib.sha256(settings + words.tobytes()).hexdigest()


def sample_seed(run_seed: int, key: str, sample: int) -> int:
    """Seed of one sample: 63 bits that depend on the run's seed, the request and the sample's index.

    A seed shared by all rows would draw the same noise for each of them; a positional one would change with the order.
    """
    digest = hashlib.sha256(f"{run_seed}:{key}:{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
