"""The step `generate_completions`: prompts in, a local result folder out."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import platform
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from kfp_llm_batch.engine.messages import EngineSpecification
from kfp_llm_batch.engine.settings import EngineSettings, answer_settings, choose_dtype, plan_settings
from kfp_llm_batch.engine.supervisor import EngineSupervisor
from kfp_llm_batch.errors import BatchError, ConfigurationError, DataError, EngineError, InterruptedRunError
from kfp_llm_batch.generation.answering import AnswerLoop, pending_answers
from kfp_llm_batch.generation.answers import PendingAnswer
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, EchoTokenizer, ModelTokenizer
from kfp_llm_batch.generation.checkpoint import Checkpoint, RowIndex, restore
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import Preparation, RowPreparer
from kfp_llm_batch.generation.progress import ProgressReport
from kfp_llm_batch.generation.prompts import Prompts
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.results.publishing import check_destination, existing_result, fetch_result
from kfp_llm_batch.row_log import RowLog
from kfp_llm_batch.termination import Termination

_LOG = logging.getLogger("kfp_llm_batch")


def generate(config: GenerationConfig, prompts_folder: Path, result_folder: Path) -> ResultManifest:
    """Answer every row of `prompts_folder` and write a result into `result_folder`.

    All that can fail without weights fails before they load. Answers that a checkpoint holds are not generated again.

    Raises:
        BatchError: See errors.py.
    """
    prompts = Prompts(prompts_folder)
    if config.output_uri:
        check_destination(config.output_uri)
    checkpoint = Checkpoint(config.effective_checkpoint_uri) if config.effective_checkpoint_uri else None
    model = resolve_model(config.model_uri, config.model_revision)
    with Termination() as termination:
        run = _Run(
            config=config,
            prompts=prompts,
            model=model,
            machine=read_machine(),
            preparer=_preparer(config, model),
            writer=PartWriter(result_folder, prompts),
            termination=termination,
        )
        index = RowIndex() if checkpoint and checkpoint.part_names() else None
        preparation = run.prepare(index)
        if existing := _same_result(config, preparation, prompts.manifest.fingerprint):
            return fetch_result(existing, result_folder)
        done = restore(checkpoint, prompts, index, run.writer) if checkpoint and index else bytearray(preparation.rows)
        if checkpoint:
            run.writer.keep_parts(checkpoint.save)
        manifest = run.answer(preparation, done)
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


def _same_result(config: GenerationConfig, preparation: Preparation, fingerprint: str) -> str | None:
    """Address of the result at the destination, if it answers exactly these rows; another one is an error."""
    if not config.output_uri or config.output_overwrite:
        return None
    existing = existing_result(config.output_uri)
    if existing is None:
        return None
    wanted = (preparation.keys.hexdigest(), fingerprint, config.output_format)
    if (existing.keys_checksum, existing.dataset.get("fingerprint"), existing.output_format) != wanted:
        raise ConfigurationError(
            f"Another result stands at the output: {existing.rows_out} rows of model {existing.model.get('uri')} "
            f"as {existing.output_format}, written {existing.created_at}",
            received=config.output_uri,
            remedy="Choose another output_uri, or set output_overwrite to replace it.",
        )
    _LOG.info("The result at %s already answers exactly these rows; nothing is generated.", config.output_uri)
    return config.output_uri


@dataclass(frozen=True, kw_only=True)
class _Run:
    config: GenerationConfig
    prompts: Prompts
    model: Model
    machine: Machine
    preparer: RowPreparer
    writer: PartWriter
    termination: Termination
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent in each phase."""
    versions: dict[str, str] = field(default_factory=dict)

    def prepare(self, index: RowIndex | None) -> Preparation:
        """First pass: render, tokenize and check every row; keep counts, and the keys if there is an index."""
        started = time.monotonic()
        preparation, log = Preparation(), RowLog("Checked")
        for batch in self.preparer.prepare(self.prompts):
            self.termination.check()
            for row in batch:
                preparation.add(row)
            if index:
                index.add([row.request_key for row in batch])
            log.log(preparation.rows)
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
        self._lap("prepare", started)
        return preparation

    def _first_fault(self) -> str:
        first = next(self.preparer.prepare(self.prompts))[0]
        return f"row {first.row_id!r}: {': '.join(first.fault or ())}"

    def answer(self, preparation: Preparation, done: bytearray) -> ResultManifest:
        """Second pass: generate what is not done, and account for every row."""
        restored = done.count(1)
        if restored:
            _LOG.info("%d of %d rows have their answer from the checkpoint.", restored, preparation.rows)
        remaining = preparation.rows - preparation.faults - restored
        dtype = choose_dtype(self.config.engine_dtype, self.model.facts)
        settings = plan_settings(self.machine, self.model.facts, preparation.job(), dtype, self.config.engine_options)
        answers = pending_answers(self.preparer.prepare(self.prompts), self.writer, done)
        if remaining:
            self._generate(settings, answers, remaining)
        deque(answers, maxlen=0)  # without an engine, only invalid rows are left, which go to the writer by themselves
        self.writer.flush()
        return self._manifest(preparation, settings)

    def _generate(self, settings: EngineSettings, answers: Iterator[PendingAnswer], rows: int) -> None:
        specification = EngineSpecification(
            kind=self.model.engine, model_path=str(self.model.folder), arguments=settings.argument_values()
        )
        environment, started = settings.environment_values(), time.monotonic()
        _LOG.info("Loading the model with %s threads.", environment["OMP_NUM_THREADS"])
        with EngineSupervisor(specification, environment, self.termination.check) as engine:
            ready = engine.wait_until_ready()
            self.versions.update(ready.versions)
            self._lap("load", started)
            _LOG.info("The engine is ready after %.1f s.", ready.load_seconds)
            started = time.monotonic()
            max_in_flight = 2 * settings.argument_values()["max_num_seqs"]
            with _keeping_finished_rows(self.writer), ProgressReport(rows) as progress:
                loop = AnswerLoop(engine=engine, writer=self.writer, progress=progress, max_in_flight=max_in_flight)
                loop.run(answers)
            self._lap("generate", started)
        if engine.restarts:
            self.seconds["engine_restarts"] = round(engine.seconds_lost, 3)
            _LOG.warning("The engine was restarted %d times; %.0f s were lost.", engine.restarts, engine.seconds_lost)

    def _lap(self, phase: str, started: float) -> None:
        self.seconds[phase] = round(time.monotonic() - started, 3)

    def _manifest(self, preparation: Preparation, settings: EngineSettings) -> ResultManifest:
        keys, source, writer = preparation.keys.hexdigest(), self.prompts.manifest, self.writer
        if writer.keys.hexdigest() != keys:
            raise BatchError("The finished rows are not those of the prompts: a defect; nothing is published")
        return ResultManifest(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            output_format="parquet",
            rows_in=preparation.rows,
            rows_out=sum(part.rows for part in writer.parts),
            rows_by_status=dict(writer.rows_by_status),
            num_prompt_tokens=writer.num_prompt_tokens,
            num_completion_tokens=writer.num_completion_tokens,
            keys_checksum=keys,
            parts=tuple(writer.parts),
            errors=tuple(writer.errors),
            dataset={
                "fingerprint": source.fingerprint,
                "rows": source.rows,
                "uri": source.source_uri,
                "revision": source.source_revision,
            },
            model={"uri": self.model.uri, "revision": self.model.revision, "digest": self.model.digest},
            sampling=dataclasses.asdict(self.config.sampling),
            engine=settings.as_dict(),
            versions={
                "kfp-llm-batch": version("kfp-llm-batch"),
                "python": platform.python_version(),
                **self.versions,
            },
            machine=dataclasses.asdict(self.machine),
            timings_seconds=self.seconds,
        )


@contextlib.contextmanager
def _keeping_finished_rows(writer: PartWriter) -> Iterator[None]:
    """When the run ends early, write the rows that are finished, so that the next run has them."""
    try:
        yield
    except (EngineError, InterruptedRunError):
        writer.flush()
        raise
