"""Which run made an answer, and when: it goes with the answer wherever that is used again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A run as its answers name it."""

    run_id: str
    """The same in every attempt and every pod of the run."""
    output_uri: str | None = None
    """Where the run's result goes; its manifest has the same `run_id`."""

    @classmethod
    def of(cls, output_uri: str | None, **work: Any) -> Origin:
        """The run that does this work for this output: another dataset, setting or output is another run."""
        canonical = json.dumps([output_uri, work], sort_keys=True)
        return cls(run_id=hashlib.sha256(canonical.encode()).hexdigest()[:16], output_uri=output_uri)

    def provenance(self, generated_at: str) -> dict[str, str | None]:
        """The column `provenance` of this run's answers when another run uses them."""
        return {**dataclasses.asdict(self), "generated_at": generated_at}
