"""Texts that occur more than once, found at eight bytes of memory each."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np

_SUSPECTS = 1_000


class DuplicateFinder:
    """Remembers the hashes of texts; whoever reads the texts a second time compares the suspects for real."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add_all(self, texts: Iterable[str]) -> None:
        """Take several texts."""
        self._hashes.extend(map(hash, texts))

    def suspects(self) -> frozenset[int]:
        """Some hashes that occur more than once; a thousand, so that the exact look stays small."""
        if not self._hashes:
            return frozenset()
        hashes = np.frombuffer(self._hashes, dtype=np.int64)
        hashes.sort()
        repeated = hashes[1:][hashes[1:] == hashes[:-1]]
        return frozenset(np.unique(repeated)[:_SUSPECTS].tolist())
