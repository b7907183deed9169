"""The step `generate_completions`: prompts in, a local result folder out."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from kfp_llm_batch.engine.messages import EngineReady, EngineSpecification
from kfp_llm_batch.engine.process import EngineProcess
from kfp_llm_batch.engine.settings import EngineSettings, answer_settings, choose_dtype, plan_settings
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.generation.answering import AnswerLoop, pending_answers
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, EchoTokenizer, ModelTokenizer
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import Preparation, RowPreparer
from kfp_llm_batch.generation.progress import ProgressReport
from kfp_llm_batch.generation.prompts import Prompts
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.results.formats import check_output_format
from kfp_llm_batch.results.publishing import check_destination, existing_result, fetch_result

_LOG = logging.getLogger("kfp_llm_batch")

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Parameters of the step."""

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

    def __post_init__(self) -> None:
        _one_of("engine_device", self.engine_device, DEVICES)
        _one_of("engine_dtype", self.engine_dtype, DTYPES)
        check_output_format(self.output_format)
        max_len = self.engine_options.get("max_model_len", 1)
        if not isinstance(max_len, int) or max_len < 1:
            raise ConfigurationError("engine_options: max_model_len is no positive whole number", received=max_len)
        if self.engine_device == "cuda":
            raise ConfigurationError(
                "The installed vLLM is a CPU build", received="engine_device=cuda", allowed=["auto", "cpu"]
            )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"Unknown {name}", received=value, allowed=allowed)


def generate(config: GenerationConfig, prompts_folder: Path, result_folder: Path) -> ResultManifest:
    """Answer every row of `prompts_folder` and write a result into `result_folder`.

    All that can fail without weights fails before they load.

    Raises:
        BatchError: See errors.py.
    """
    clock = _Clock()
    prompts = Prompts(prompts_folder)
    if config.output_uri:
        check_destination(config.output_uri)
    model = resolve_model(config.model_uri, config.model_revision)
    run = _Run(config=config, prompts=prompts, model=model, preparer=_preparer(config, model), machine=read_machine())
    preparation = run.prepare()
    clock.lap("prepare")
    if manifest := run.reuse(preparation, result_folder):
        return manifest
    writer = PartWriter(result_folder, prompts)
    settings, ready = run.answer(preparation, writer, clock)
    manifest = run.manifest(preparation, writer, settings, ready, clock)
    manifest.save(result_folder)
    return manifest


def _preparer(config: GenerationConfig, model: Model) -> RowPreparer:
    tokenizer: ChatTokenizer = EchoTokenizer() if model.engine == "echo" else ModelTokenizer(model.folder)
    dtype = choose_dtype(config.engine_dtype, model.facts)
    return RowPreparer(
        tokenizer=tokenizer,
        sampling=config.sampling,
        model_digest=model.digest,
        answer_settings=answer_settings(dtype, config.engine_options),
        max_model_len=config.engine_options.get("max_model_len", model.facts.max_model_len),
    )


class _Clock:
    """Seconds spent in each phase."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self._last = now


@dataclass(frozen=True, kw_only=True)
class _Run:
    config: GenerationConfig
    prompts: Prompts
    model: Model
    preparer: RowPreparer
    machine: Machine

    def prepare(self) -> Preparation:
        """First pass: render, tokenize and check every row; keep the counts alone."""
        preparation = Preparation()
        for batch in self.preparer.prepare(self.prompts):
            for row in batch:
                preparation.add(row)
        if preparation.rows and not preparation.requests:
            raise DataError(f"None of the {preparation.rows} rows can be answered; the first: {self._first_fault()}")
        _LOG.info(
            "%d rows, %d requests, %d rows invalid; prompts of %.0f tokens on average, %d at most.",
            preparation.rows,
            preparation.requests,
            preparation.faults,
            preparation.job().mean_prompt_tokens,
            preparation.longest_prompt_tokens,
        )
        return preparation

    def _first_fault(self) -> str:
        first = next(iter(next(self.preparer.prepare(self.prompts))))
        return f"row {first.row_id!r}: {': '.join(first.fault or ())}"

    def reuse(self, preparation: Preparation, result_folder: Path) -> ResultManifest | None:
        """The result that stands at the destination, if it answers exactly these requests."""
        if not self.config.output_uri or self.config.output_overwrite:
            return None
        existing = existing_result(self.config.output_uri)
        if existing is None:
            return None
        same_rows = existing.keys_checksum == preparation.keys.hexdigest()
        if not same_rows or existing.output_format != self.config.output_format:
            raise ConfigurationError(
                f"Another result stands at the output: {existing.rows_out} rows of model {existing.model.get('uri')} "
                f"as {existing.output_format}, written {existing.created_at}",
                received=self.config.output_uri,
                remedy="Choose another output_uri, or set output_overwrite to replace it.",
            )
        _LOG.info("The result at %s already answers exactly these rows; nothing is generated.", self.config.output_uri)
        return fetch_result(self.config.output_uri, result_folder)

    def answer(
        self, preparation: Preparation, writer: PartWriter, clock: _Clock
    ) -> tuple[EngineSettings | None, EngineReady | None]:
        """Second pass: generate."""
        if not preparation.requests:
            return None, None
        settings = self._settings(preparation)
        specification = EngineSpecification(
            kind=self.model.engine, model_path=str(self.model.folder), arguments=settings.argument_values()
        )
        sequences = settings.argument_values()["max_num_seqs"]
        with EngineProcess(specification, settings.environment_values()) as engine:
            _LOG.info("Loading the model with %s threads.", settings.environment_values()["OMP_NUM_THREADS"])
            ready = engine.wait_until_ready()
            clock.lap("load")
            _LOG.info("The engine is ready after %.1f s.", ready.load_seconds)
            with ProgressReport(preparation.rows - preparation.faults) as progress:
                loop = AnswerLoop(engine=engine, writer=writer, progress=progress, max_in_flight=2 * sequences)
                loop.run(pending_answers(self.preparer.prepare(self.prompts), writer))
        writer.flush()
        clock.lap("generate")
        return settings, ready

    def _settings(self, preparation: Preparation) -> EngineSettings:
        dtype = choose_dtype(self.config.engine_dtype, self.model.facts)
        return plan_settings(self.machine, self.model.facts, preparation.job(), dtype, self.config.engine_options)

    def manifest(
        self,
        preparation: Preparation,
        writer: PartWriter,
        settings: EngineSettings | None,
        ready: EngineReady | None,
        clock: _Clock,
    ) -> ResultManifest:
        """All that is known of the finished result."""
        source = self.prompts.manifest
        return ResultManifest(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            output_format="parquet",
            rows_in=preparation.rows,
            rows_out=sum(part.rows for part in writer.parts),
            rows_by_status=dict(writer.rows_by_status),
            num_prompt_tokens=writer.num_prompt_tokens,
            num_completion_tokens=writer.num_completion_tokens,
            keys_checksum=preparation.keys.hexdigest(),
            parts=tuple(writer.parts),
            errors=tuple(writer.errors),
            dataset={
                "fingerprint": source.fingerprint,
                "rows": source.rows,
                "uri": source.source_uri,
                "revision": source.source_revision,
            },
            model={"uri": self.model.uri, "revision": self.model.revision, "digest": self.model.digest},
            sampling=asdict(self.config.sampling),
            engine=settings.as_dict() if settings else {},
            versions={
                "kfp-llm-batch": version("kfp-llm-batch"),
                "python": platform.python_version(),
                **(ready.versions if ready else {}),
            },
            machine=asdict(self.machine),
            timings_seconds=clock.laps,
        )
