"""vLLM 0.32 on CPU fails where the prompt of a request with a seed is read in two steps; with this plugin it does not.

After the first of the two steps a token is drawn and thrown away. vLLM then turns the request's random generator back
by its offset, which generators on CPU lack ("CPU Generator does not use offset"), and the engine is lost. vLLM calls
`register` as a `vllm.general_plugins` entry point, in each of its processes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np


def register() -> None:
    """Draw nothing by the generator of a request whose prompt is not read to its end."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    if "sample_tokens" not in vars(CPUModelRunner):
        CPUModelRunner.sample_tokens = _without_partial_prompts(CPUModelRunner.sample_tokens)


def _without_partial_prompts(sample_tokens: Any) -> Any:
    @functools.wraps(sample_tokens)
    def sample_whole_prompts(runner: Any, *arguments: Any) -> Any:
        batch = runner.input_batch
        partial = np.flatnonzero(runner.discard_request_mask.np[: batch.num_reqs]).tolist()
        set_aside = {index: batch.generators.pop(index) for index in partial if index in batch.generators}
        try:
            return sample_tokens(runner, *arguments)
        finally:
            batch.generators.update(set_aside)

    return sample_whole_prompts
