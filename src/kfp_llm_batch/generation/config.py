"""Parameters of the step `generate_completions`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.formats import check_output_format
from kfp_llm_batch.results.publishing import CHECKPOINT_FOLDER
from kfp_llm_batch.storage.uris import join_uri

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "bfloat16", "float16", "float32")

_RESERVED_OPTIONS = frozenset({"model", "tokenizer", "revision", "tokenizer_revision", "hf_config_path", "dtype"})
_COUNTS = ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """What is generated, by which model, and where it will go; checks itself."""

    model_uri: str
    model_revision: str | None = None
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    engine_device: str = "auto"
    engine_dtype: str = "auto"
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of vLLM's EngineArgs; they win over what is planned."""
    output_uri: str | None = None
    """Where the result will go; checked before the weights load, as is its format."""
    output_format: str = "parquet"
    output_overwrite: bool = False
    checkpoint_uri: str | None = None
    """Where finished rows are kept while the run goes on; None keeps them beside the output."""

    def __post_init__(self) -> None:
        _one_of("engine_device", self.engine_device, DEVICES)
        _one_of("engine_dtype", self.engine_dtype, DTYPES)
        check_output_format(self.output_format)
        self._check_engine_options()
        if self.engine_device == "cuda":
            raise ConfigurationError(
                "The installed vLLM is a CPU build", received="engine_device=cuda", allowed=["auto", "cpu"]
            )

    def _check_engine_options(self) -> None:
        if reserved := sorted(_RESERVED_OPTIONS.intersection(self.engine_options)):
            raise ConfigurationError(
                f"engine_options cannot set {', '.join(reserved)}",
                remedy="model_uri, model_revision and engine_dtype say which model it is, and in which precision.",
            )
        for name in _COUNTS:
            count = self.engine_options.get(name, 1)
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise ConfigurationError(f"engine_options: {name} is no positive whole number", received=count)
        try:
            json.dumps(self.engine_options, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise ConfigurationError(f"engine_options is not JSON: {error}") from error

    @property
    def effective_checkpoint_uri(self) -> str | None:
        """The given one, or the one beside the output; None without either."""
        beside = join_uri(self.output_uri, CHECKPOINT_FOLDER) if self.output_uri else None
        return self.checkpoint_uri or beside


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"Unknown {name}", received=value, allowed=allowed)
