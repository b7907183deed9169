"""Parameters of the step `generate_completions`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.devices import DEVICES, check_build, installed_build
from kfp_llm_batch.engine.process_environment import VARIABLES
from kfp_llm_batch.engine.settings import ENGINES_OPTION
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.provenance import Origin
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.formats import check_output_format
from kfp_llm_batch.results.ownership import CHECKPOINT_FOLDER
from kfp_llm_batch.steps import from_parameters
from kfp_llm_batch.storage.uris import join_uri

DTYPES = ("auto", "bfloat16", "float16", "float32")
CONTEXT_POLICIES = ("error", "truncate_left", "truncate_right", "truncate_middle")
SPECIAL_TOKENS = ("text", "refuse")

_RESERVED_OPTIONS = frozenset({"model", "tokenizer", "revision", "tokenizer_revision", "hf_config_path", "dtype"})
_COUNTS = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_memory_bytes",
    "block_size",
    ENGINES_OPTION,
)


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """What is generated, by which model, and where it will go; checks itself."""

    model_uri: str
    model_revision: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    context_policy: str = "error"
    """For a prompt that does not fit into the context: one of CONTEXT_POLICIES, where the text is cut."""
    special_tokens: str = "text"
    """What special tokens in the dataset's texts are: plain `text`, or a fault of the row (`refuse`)."""
    engine_device: str = "auto"
    engine_dtype: str = "auto"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of vLLM's EngineArgs, and variables of its process in capitals; they win over what is planned.

    Or `url` of an endpoint that answers in its place, see engine/endpoint.py.
    """
    output_uri: str | None = None
    """Where the result will go; checked before the weights load, as is its format."""
    output_format: str = "parquet"
    output_overwrite: bool = False
    checkpoint_uri: str | None = None
    """Where finished rows are kept while the run goes on; None keeps them beside the output."""
    reuse_uri: str | None = None
    """Where runs share their answers: those found are not generated again, those generated are added."""
    retry_of: str | None = None
    """Address of an earlier result, whose rows are taken over but for those of `retry_error_codes`."""
    retry_error_codes: tuple[str, ...] = ()
    """Error codes or statuses; none means every row that is `invalid` or `failed`."""
    max_error_rate: float = 1.0
    """Most rows without an answer, as a share of all rows."""
    rows_of_all_shards: int | None = None
    """What `max_error_rate` is a share of, if the prompts are one shard of many; None takes the prompts' own rows."""
    origin: Origin | None = None
    """The run that the prompts are one shard of; None derives it from the work."""
    max_duration_seconds: int | None = None
    """From the start of the step; the result is partial then."""
    engine_cache: Path | None = None
    """Folder that the step `warm_engine` wrote."""

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """What a step's parameters ask for."""
        sampling = from_parameters(SamplingConfig, parameters, "generation_")
        return from_parameters(cls, {**parameters, "sampling": sampling}, "generation_")

    def __post_init__(self) -> None:
        _one_of("engine_device", self.engine_device, DEVICES)
        _one_of("engine_dtype", self.engine_dtype, DTYPES)
        _one_of("generation_context_policy", self.context_policy, CONTEXT_POLICIES)
        _one_of("generation_special_tokens", self.special_tokens, SPECIAL_TOKENS)
        check_output_format(self.output_format)
        self._check_limits()
        self._check_engine_options()
        if self.engine_device == "cuda":
            check_build("cuda", installed_build())

    def _check_limits(self) -> None:
        if not 0 <= self.max_error_rate <= 1:
            raise ConfigurationError("max_error_rate is no share", received=self.max_error_rate, allowed=["0 to 1"])
        if self.max_duration_seconds is not None and self.max_duration_seconds < 1:
            raise ConfigurationError("max_duration_seconds is no positive number", received=self.max_duration_seconds)
        if self.retry_error_codes and not self.retry_of:
            raise ConfigurationError("retry_error_codes says nothing without retry_of", remedy="Set retry_of as well.")

    def _check_engine_options(self) -> None:
        if endpoint.URL_OPTION in self.engine_options:
            endpoint.check_options(self.engine_options)
        if reserved := sorted(_RESERVED_OPTIONS.intersection(self.engine_options)):
            raise ConfigurationError(
                f"engine_options cannot set {', '.join(reserved)}",
                remedy="model_uri, model_revision and engine_dtype say which model it is, and in which precision.",
            )
        for name in _COUNTS:
            count = self.engine_options.get(name, 1)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigurationError(f"engine_options: {name} is no positive whole number", received=count)
        for name, value in self.engine_options.items():
            if name.isupper():
                _check_variable(name, value)
        try:
            json.dumps(self.engine_options, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"engine_options is not JSON: {error}") from error

    @property
    def is_shard(self) -> bool:
        """Whether the prompts are one shard of many."""
        return self.rows_of_all_shards is not None

    @property
    def effective_checkpoint_uri(self) -> str | None:
        """The given one, or the one beside the output; None without either."""
        beside = join_uri(self.output_uri, CHECKPOINT_FOLDER) if self.output_uri else None
        return self.checkpoint_uri or beside


ANSWERING_FIELDS = (
    "model_uri",
    "model_revision",
    "context_policy",
    "special_tokens",
    "engine_device",
    "engine_dtype",
    "engine_options",
)
"""What of a GenerationConfig decides on answers, beside its sampling parameters."""


def generation_fields(config: GenerationConfig) -> dict[str, Any]:
    """The part of `config` that every pod of a job has in common, as JSON."""
    fields = {name: getattr(config, name) for name in ANSWERING_FIELDS}
    return json.loads(json.dumps({**fields, "sampling": dataclasses.asdict(config.sampling)}))  # type: ignore[no-any-return]


def _check_variable(name: str, value: object) -> None:
    if name not in VARIABLES:
        raise ConfigurationError("engine_options: no variable that is planned", received=name, allowed=VARIABLES)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ConfigurationError(f"engine_options: {name} is neither text nor a whole number", received=value)


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"Unknown {name}", received=value, allowed=allowed)
