"""One run of the engine over the rows of a dataset, from the first pass to the manifest."""

from __future__ import annotations

import dataclasses
import logging
import platform
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.compiling import CompileRecord
from kfp_llm_batch.engine.decisions import EngineSettings
from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.messages import EngineSpecification
from kfp_llm_batch.engine.planning import plan_job
from kfp_llm_batch.engine.settings import choose_dtype
from kfp_llm_batch.engine.shares import Placement
from kfp_llm_batch.errors import BatchError
from kfp_llm_batch.generation.answering import ROWS_PER_WINDOW, AnswerLoop, pending_answers
from kfp_llm_batch.generation.answers import PendingAnswer
from kfp_llm_batch.generation.checkpoint import Checkpoint, RowIndex, restore
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.deadline import Deadline
from kfp_llm_batch.generation.earlier_result import EarlierResult
from kfp_llm_batch.generation.error_budget import ErrorBudget
from kfp_llm_batch.generation.expectation import expected
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import RowPreparer
from kfp_llm_batch.generation.progress import ProgressReport
from kfp_llm_batch.generation.provenance import Origin
from kfp_llm_batch.generation.survey import Survey, hashed_order, survey_rows
from kfp_llm_batch.machine import Machine
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.models.resolving import Model

_LOG = logging.getLogger("kfp_llm_batch")


@dataclass(frozen=True, kw_only=True)
class GenerationRun:
    """Everything that the passes over the rows share."""

    config: GenerationConfig
    prompts: Prompts
    model: Model
    machine: Machine
    placement: Placement
    preparer: RowPreparer
    writer: PartWriter
    budget: ErrorBudget
    deadline: Deadline
    engine: EngineGroup
    """Started, and not loaded yet."""
    earlier: EarlierResult | None
    origin: Origin
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent in each phase."""
    versions: dict[str, str] = field(default_factory=dict)
    estimate: dict[str, Any] = field(default_factory=dict)
    """What was expected of this run, filled in before the model loads."""

    def survey(self, index: RowIndex | None) -> Survey:
        """First pass: render, tokenize and check every row; keep counts, and the keys if there is an index."""
        started = time.monotonic()
        rows = self.preparer.prepare(self.prompts.batches())
        survey = survey_rows(rows, self.budget.again(), self.earlier, index)
        _LOG.info(
            "%d rows, %d requests, %d rows invalid; prompts of %.0f tokens on average, %d at most.",
            survey.rows,
            survey.requests,
            survey.faults,
            survey.job().mean_prompt_tokens,
            survey.longest_prompt_tokens,
        )
        self._lap("prepare", started)
        return survey

    def take_over(self, survey: Survey, sources: Sequence[Checkpoint], index: RowIndex | None) -> None:
        """Write the rows that have their answer from an earlier result, or from parts that are kept elsewhere."""
        if self.earlier:
            for row, completion in self.earlier.completions():
                self.writer.add(row, completion)
            self.writer.flush()
            _LOG.info("%d rows are taken over from %s.", survey.done.count(1), self.earlier.uri)
        if index is None:
            return
        for source in sources:
            before = survey.done.count(1)
            restore(source, self.prompts, index, survey.done, self.writer)
            _LOG.info("%d rows have their answer from %s.", survey.done.count(1) - before, source.uri)

    def answer(self, survey: Survey) -> ResultManifest:
        """Second pass: generate what is not done, and account for every row."""
        dtype = choose_dtype(self.config.engine_dtype, self.model.facts)
        settings = plan_job(self.placement, self.model, survey.job(), dtype, self.config.engine_options)
        self._expect(survey)
        answers, rows = self._pending_answers(survey), survey.rows - survey.faults - survey.done.count(1)
        try:
            if rows:
                self._generate(settings, answers, rows)
            else:
                deque(answers, maxlen=0)  # only invalid rows are left, which go to the writer by themselves
        except BatchError:
            self.writer.flush()  # the next run then has the rows that are finished
            raise
        self.writer.flush()
        if rows and not self.writer.keys.count:
            self.deadline.check_before_first_answer()
        self.budget.check_finished(self.writer.keys.count)
        return self._manifest(survey, settings)

    def _expect(self, survey: Survey) -> None:
        """Note what the whole job should take; a run that takes answers over has less to do than was estimated."""
        if survey.done.count(1):
            return
        self.estimate.update(expected(self.config, self.prompts.manifest, self.model, self.placement, survey.job()))
        if seconds := self.estimate.get("generate_seconds"):
            _LOG.info("About %.0f s are expected, by %s.", seconds["expected"], self.estimate["basis"])

    def _pending_answers(self, survey: Survey) -> Iterator[PendingAnswer]:
        batches, rows_per_window = self.prompts.batches(), ROWS_PER_WINDOW
        if self.deadline.is_set:
            # Ordered for the engine, long prompts would be first, and the part answered no fair sample.
            batches, rows_per_window = self.prompts.batches_in(hashed_order(self.prompts)), 1
        return pending_answers(self.preparer.prepare(batches), self.writer, survey.done, rows_per_window)

    def _generate(self, settings: EngineSettings, answers: Iterator[PendingAnswer], rows: int) -> None:
        arguments, engine, started = settings.argument_values(), self.engine, time.monotonic()
        record = CompileRecord(self.machine, self.model)
        does_compile = self.model.engine == "vllm" and not arguments.get("enforce_eager", True)
        is_compiled = does_compile and record.holds(arguments)
        _LOG.info("Loading the model: %s.", self._place_in_words(settings))
        ready = engine.load(
            EngineSpecification(model_path=str(self.model.folder), arguments=arguments, is_compiled=is_compiled),
            is_first_alone=does_compile and not is_compiled,
        )
        self.versions.update(ready.versions)
        self._lap("load", started)
        _LOG.info("The engine is ready after %.1f s.", ready.load_seconds)
        if does_compile:
            record.add(arguments)
        self.deadline.check_before_first_answer()
        started = time.monotonic()
        with ProgressReport(rows) as progress:
            loop = AnswerLoop(
                engine=engine,
                writer=self.writer,
                progress=progress,
                max_in_flight=settings.max_in_flight * len(engine),
                deadline=self.deadline,
            )
            loop.run(answers)
        self._lap("generate", started)
        engine.kill()
        if engine.restarts:
            self.seconds["engine_restarts"] = round(engine.seconds_lost, 3)
            _LOG.warning("The engine was restarted %d times; %.0f s were lost.", engine.restarts, engine.seconds_lost)

    def _place_in_words(self, settings: EngineSettings) -> str:
        if url := self.config.engine_options.get(endpoint.URL_OPTION):
            return f"at {url}"
        threads = settings.environment_values().get("OMP_NUM_THREADS", "vLLM's own choice of")
        return f"{len(self.engine)} engines on {self.placement.device.value}, each with {threads} threads"

    def _lap(self, phase: str, started: float) -> None:
        self.seconds[phase] = round(time.monotonic() - started, 3)

    def _is_partial(self, survey: Survey) -> bool:
        """Whether the deadline left rows out; rows lost in any other way are a defect."""
        writer = self.writer
        if writer.keys.count < survey.rows and self.deadline.is_set:
            _LOG.warning(
                "The time was over: %d of %d rows are answered. The same run again goes on.",
                writer.keys.count,
                survey.rows,
            )
            return True
        if writer.keys.hexdigest() != survey.keys.hexdigest():
            raise BatchError("The finished rows are not those of the prompts: a defect; nothing is published")
        return False

    def _manifest(self, survey: Survey, settings: EngineSettings) -> ResultManifest:
        model, writer = self.model, self.writer
        return ResultManifest(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            output_format="parquet",
            rows_in=survey.rows,
            rows_out=sum(part.rows for part in writer.parts),
            rows_by_status=dict(writer.rows_by_status),
            errors_by_code=dict(self.budget.codes),
            num_prompt_tokens=writer.num_prompt_tokens,
            num_completion_tokens=writer.num_completion_tokens,
            keys_checksum=writer.keys.hexdigest(),
            is_partial=self._is_partial(survey),
            parts=tuple(writer.parts),
            errors=tuple(writer.errors),
            dataset=self.prompts.manifest.facts,
            model={"uri": model.uri, "revision": model.revision, "digest": model.digest},
            sampling=dataclasses.asdict(self.config.sampling),
            engine=settings.as_dict(),
            versions={
                "kfp-llm-batch": version("kfp-llm-batch"),
                "python": platform.python_version(),
                **self.versions,
            },
            machine=self.machine.as_dict(),
            retry_of={"uri": self.earlier.uri, "rows": self.earlier.rows} if self.earlier else {},
            run_id=self.origin.run_id,
            reused=writer.reused,
            timings_seconds=self.seconds,
            estimate=self.estimate,
        )
