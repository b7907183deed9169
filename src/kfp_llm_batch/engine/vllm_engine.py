"""vLLM in this very process: no worker processes, no shared-memory rings."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from pathlib import Path
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMClientError
from vllm.model_executor.models import registry
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.utils import cpu_resource_utils
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.worker.cpu_model_runner import CPUModelRunner

from kfp_llm_batch.engine.devices import installed_version, vllm_version
from kfp_llm_batch.engine.messages import EngineSpecification, FinishedRequest, GenerationOutput, GenerationRequest
from kfp_llm_batch.engine.texts import whole_text, without_surrogates
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine.memory import memory_bytes

_DECODED_PROMPT_TOKENS = 8
_WARM_UP_TOKENS = 16


class VllmEngine:
    """Continuous batching by `LLMEngine.step`; requests may be added while others run.

    Args:
        specification: A folder with config, tokenizer and safetensors, and keyword arguments of vLLM's EngineArgs.
    """

    def __init__(self, specification: EngineSpecification) -> None:
        others = {name: number for name in ("torch", "transformers") if (number := installed_version(name))}
        self.versions: dict[str, str] = {**vllm_version(), **others}
        _count_page_cache_as_free()
        if current_platform.is_cpu():
            _look_at_models_in_this_process()
        if specification.is_compiled:
            _warm_up_shortly()
        config = _checked_config({"model": specification.model_path, **specification.arguments})
        self._engine = LLMEngine.from_vllm_config(config, disable_log_stats=True)
        self._requests: dict[int, GenerationRequest] = {}

    def add(self, request: GenerationRequest) -> None:
        """Hand over token ids, so that vLLM adds no second BOS token."""
        try:
            self._engine.add_request(
                str(request.request_id), {"prompt_token_ids": request.token_ids}, _sampling_params(request.sampling)
            )
        except (VLLMClientError, TypeError) as error:
            raise ValueError(str(error)) from error
        self._requests[request.request_id] = request

    def step(self) -> list[FinishedRequest]:
        """Run one scheduler step."""
        return [
            self._finished(int(output.request_id), output)
            for output in self._engine.step()
            if isinstance(output, RequestOutput) and output.finished
        ]

    def has_unfinished(self) -> bool:
        """Whether requests wait or run."""
        return bool(self._engine.has_unfinished_requests())

    def _finished(self, request_id: int, output: RequestOutput) -> FinishedRequest:
        completion = output.outputs[0]
        text, is_cut = whole_text(completion.text, self._decoded(self._requests.pop(request_id), completion))
        storable, stop = without_surrogates(text), completion.stop_reason
        answer = GenerationOutput(
            text=storable,
            finish_reason=str(completion.finish_reason),
            num_tokens=len(completion.token_ids),
            stop_reason=None if stop is None else str(stop),
            cumulative_logprob=completion.cumulative_logprob,
            logprobs=_logprobs(completion),
            is_repaired=is_cut or storable != text,
        )
        return FinishedRequest(request_id=request_id, output=answer, prompt_logprob=_prompt_logprob(output))

    def _decoded(self, request: GenerationRequest, completion: CompletionOutput) -> str:
        """The tokens of an answer, decoded together; the prompt's end decides on a space at its beginning."""
        token_ids, prompt = list(completion.token_ids), request.token_ids[-_DECODED_PROMPT_TOKENS:]
        if _ends_with_hidden_token(completion, request.sampling):
            token_ids.pop()
        decode = functools.partial(
            self._engine.get_tokenizer().decode,
            skip_special_tokens=request.sampling.get("skip_special_tokens", True),
        )
        return str(decode([*prompt, *token_ids]))[len(decode(prompt)) :]


def _count_page_cache_as_free() -> None:
    """Let vLLM see what is left of a pod's memory as the plan does.

    It counts page cache as used, which after a download is most of the limit, and then refuses to start.
    """
    limit = cpu_resource_utils.get_cgroup_memory_limit()
    if limit is not None:
        cpu_resource_utils.get_cgroup_memory_usage = lambda: limit - memory_bytes(Path("/"))[1]


def _look_at_models_in_this_process() -> None:
    """Import a model's class here, where it is needed anyway: at its first start vLLM does so in another process.

    That one imports vLLM once more, as long as everything else at the start of a pod, to keep a GPU untouched here.
    """
    registry._run_in_subprocess = lambda look: look()


def _warm_up_shortly() -> None:
    """Load compiled code with a step of few tokens: vLLM takes one as large as steps can be, some seconds of computing.

    Only where there is such code, since what is compiled depends on the size of the step that it is compiled for.
    """
    CPUModelRunner.profile_run = lambda runner, *_: runner._dummy_run(_WARM_UP_TOKENS, is_profile=True)


def _ends_with_hidden_token(completion: CompletionOutput, sampling: dict[str, Any]) -> bool:
    """Whether the last token is one that ended the answer and is not part of its text; a stop string is no token."""
    is_token = completion.finish_reason == "stop" and not isinstance(completion.stop_reason, str)
    return is_token and not sampling.get("include_stop_str_in_output", False)


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


def _prompt_logprob(output: RequestOutput) -> float | None:
    if output.prompt_logprobs is None:
        return None
    predicted = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    return sum(float(candidates[token_id].logprob) for token_id, candidates in predicted)


def _logprobs(completion: CompletionOutput) -> list[list[dict[str, Any]]] | None:
    if completion.logprobs is None:
        return None
    return [
        [
            {
                "token_id": token_id,
                "token": None if entry.decoded_token is None else without_surrogates(entry.decoded_token),
                "logprob": entry.logprob,
                "rank": entry.rank,
            }
            for token_id, entry in candidates.items()
        ]
        for candidates in completion.logprobs
    ]
