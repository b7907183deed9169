"""A volume for all steps of a run, such as one with models.

It cannot be a parameter of a pipeline: where Kubeflow mounts a claim that a parameter names, a run without one fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

from kfp_llm_batch.errors import ConfigurationError

_VOLUME = re.compile(r"([a-z0-9]([-a-z0-9]*[a-z0-9])?):(/[^:]+)")


def check_volume(volume: str) -> None:
    """Refuse what does not name a claim and a path, such as models:/models; an empty text names none.

    Raises:
        ConfigurationError: It does not.
    """
    if volume and not _VOLUME.fullmatch(volume):
        raise ConfigurationError(
            "A volume is the name of a PersistentVolumeClaim and the path for it in the pods",
            received=volume,
            remedy="Write it as models:/models.",
        )


def with_volume(platform: dict[str, Any], executors: Iterable[str], volume: str) -> dict[str, Any]:
    """The Kubernetes settings of a pipeline with the volume mounted in each of these steps."""
    claim, _, path = volume.partition(":")
    changed = deepcopy(platform)
    settings = changed.setdefault("platforms", {}).setdefault("kubernetes", {}).setdefault("deploymentSpec", {})
    for name in executors:
        mounts = settings.setdefault("executors", {}).setdefault(name, {}).setdefault("pvcMount", [])
        mounts.append({"mountPath": path, "pvcNameParameter": {"runtimeValue": {"constant": claim}}})
    return changed
