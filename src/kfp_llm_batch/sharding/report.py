"""What the Kubeflow UI shows of a pod's shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

from kfp_llm_batch.generation.report import metrics
from kfp_llm_batch.manifests import ResultManifest


def manifests_json(answered: Mapping[int, ResultManifest]) -> str:
    """The manifests of the shards by their numbers."""
    return json.dumps({number: dataclasses.asdict(manifest) for number, manifest in answered.items()}, indent=2) + "\n"


def shard_metrics(answered: Mapping[int, ResultManifest]) -> dict[str, float]:
    """Sums over the shards; finite numbers by name."""
    total: dict[str, float] = {"shards": float(len(answered))}
    for manifest in answered.values():
        for name, value in metrics(manifest).items():
            total[name] = total.get(name, 0.0) + value
    if seconds := total.get("generate_seconds"):
        generated = total["completion_tokens"] - total["completion_tokens_reused"]
        total["completion_tokens_per_second"] = generated / seconds
    return total
