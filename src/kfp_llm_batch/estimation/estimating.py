"""A job's time and cost before it is run: its rows, a sample of them, a probe of the engine, and what follows."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.engine.compiling import COLD_SECONDS, CompileRecord, saved_share
from kfp_llm_batch.engine.decisions import EngineSettings
from kfp_llm_batch.engine.kv_cache import kv_bytes_per_token
from kfp_llm_batch.engine.messages import EngineSpecification
from kfp_llm_batch.engine.planning import is_computed_here, plan_job
from kfp_llm_batch.engine.settings import choose_dtype
from kfp_llm_batch.engine.shares import Placement
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.estimation.forecast import LEVEL, RUN_SPREAD, Forecast, Interval, Work, forecast, interval
from kfp_llm_batch.estimation.probe import Findings, Probe
from kfp_llm_batch.estimation.sample import Sample, draw_sample
from kfp_llm_batch.estimation.speed import Round, fit
from kfp_llm_batch.generation import expectation
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import choose_placement, make_engines, make_preparer
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.sharding.sizing import AUTO, ShardingConfig

_LOG = logging.getLogger("kfp_llm_batch")

_SEED = 1
_QUANTILE = NormalDist().inv_cdf((1 + LEVEL) / 2)
"""How many standard errors a mean may lie off, at LEVEL."""


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """What is asked for; checks itself."""

    hours: float = 1.0
    """How long the pods should take, for the number of shards."""
    probe_seconds: float = 30.0
    """For the rounds of the probe, which take up to twice as long where answers are long."""

    def __post_init__(self) -> None:
        for name in ("hours", "probe_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is no positive number", received=getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job will take, on a machine as this one."""

    rows: int
    rows_sampled: int
    rows_invalid: float
    """About how many rows cannot be answered."""
    prompt_tokens: Interval
    computed_prompt_tokens: float
    """About; the others are found in the cache of common beginnings."""
    completion_tokens: Interval
    are_answers_cut: bool
    """Whether the probe had no time for whole answers: those it cut are counted as long as they may be."""
    prompt_tokens_per_second: float
    """Of all engines; prompts alone."""
    new_tokens_per_second: float
    """Of all engines, with as many requests at a time as the job has."""
    requests_at_a_time: int
    start_seconds: float
    """Until the engine is ready, the first pass over the rows included."""
    generate_seconds: Interval
    seconds: Interval
    """Of the whole step."""
    cpu_hours: Interval
    num_shards: int
    """Recommended; as many pods as this one."""
    probe_seconds: float
    rounds: Sequence[Round]
    """What the probe measured."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON, for programs and for the manifest of the result."""
        return {"basis": expectation.PROBE, **dataclasses.asdict(self)}


def estimate(dataset: DatasetConfig, generation: GenerationConfig, config: EstimateConfig) -> Estimate:
    """Load the dataset, tokenize a sample, probe the engine; the run of this job will find the estimate.

    Raises:
        BatchError: See errors.py; what is wrong with the dataset is found before a model loads.
    """
    with temporary_folder() as folder:
        load_dataset(dataset, folder)
        prompts = Prompts(folder)
        if not prompts.manifest.rows:
            raise ConfigurationError(
                "The dataset has no rows: there is nothing to estimate", received=prompts.manifest.source_uri
            )
        model, machine = resolve_model(generation.model_uri, generation.model_revision), read_machine()
        placement = choose_placement(generation, prompts, model, machine)
        begun = time.monotonic()
        with make_engines(generation, model, placement) as engine:
            sample = draw_sample(prompts, make_preparer(generation, model))
            job = _Job(generation=generation, model=model, placement=placement, sample=sample)
            engine.load(job.specification())
            started = time.monotonic() - begun
            found = Probe(
                engine=engine,
                answers=sample.answers,
                requests=job.work.requests,
                slots=job.work.slots,
                seconds=config.probe_seconds,
            ).run()
            engine.kill()
        made = _combine(job, started, found, config, machine)
        path = expectation.estimate_path(generation, prompts.manifest, model, placement.shares[0])
        expectation.keep(made.as_dict(), path)
    return made


@dataclass(frozen=True, kw_only=True)
class _Job:
    generation: GenerationConfig
    model: Model
    placement: Placement
    sample: Sample

    @cached_property
    def settings(self) -> EngineSettings:
        """As the run of the whole job will have them."""
        return self._plan(self.generation.engine_options)

    @cached_property
    def is_compiled(self) -> bool:
        """Whether the run will compute with compiled code."""
        return self.model.engine == "vllm" and not self.settings.argument_values().get("enforce_eager", True)

    @cached_property
    def must_compile(self) -> bool:
        """Whether the run will compile the model, which the probe does not wait for."""
        arguments = self.settings.argument_values()
        return self.is_compiled and not CompileRecord(read_machine(), self.model).holds(arguments)

    @cached_property
    def work(self) -> Work:
        requests = sum(answer.samples for answer in self.sample.answers)
        return Work(
            requests=round(requests * self.sample.scale),
            engines=len(self.placement.shares),
            slots=self._slots(),
            saved_share=saved_share(self.placement.shares[0]) if self.must_compile else 0.0,
        )

    def specification(self) -> EngineSpecification:
        settings = self.settings
        if self.must_compile:
            settings = self._plan({**self.generation.engine_options, "enforce_eager": True})
        return EngineSpecification(
            model_path=str(self.model.folder),
            arguments=settings.argument_values(),
            is_compiled=self.is_compiled and not self.must_compile,
        )

    def _plan(self, options: Mapping[str, Any]) -> EngineSettings:
        dtype = choose_dtype(self.generation.engine_dtype, self.model.facts)
        return plan_job(self.placement, self.model, self.sample.job, dtype, options)

    def _slots(self) -> int:
        """Requests that an engine runs at a time: as many as it may, and as its cache holds."""
        settings, facts = self.settings, self.sample.facts
        slots = max(1, settings.max_in_flight // 2)
        cache = settings.argument_values().get("kv_cache_memory_bytes")
        if cache is None or not is_computed_here(self.model, self.generation.engine_options):
            return slots
        dtype = choose_dtype(self.generation.engine_dtype, self.model.facts)
        request = (facts.mean_prompt_tokens + facts.max_tokens) * kv_bytes_per_token(self.model.facts, dtype.value)
        return max(1, min(slots, int(cache / request)))


def _combine(job: _Job, started: float, found: Findings, config: EstimateConfig, machine: Machine) -> Estimate:
    work, sample = job.work, job.sample
    generation = forecast(work, sample, found)
    start = started + sample.seconds * (sample.scale - 1) + (COLD_SECONDS if job.must_compile else 0.0)
    spread = np.exp(np.random.default_rng(_SEED).normal(0, RUN_SPREAD, len(generation.draws)))
    seconds = generation.draws + start * spread
    speed = fit(found.rounds)
    at_a_time = min(work.slots, -(-work.requests // work.engines))
    return Estimate(
        rows=sample.all_rows,
        rows_sampled=sample.rows,
        rows_invalid=sample.faults * sample.scale,
        prompt_tokens=_prompt_tokens(sample),
        computed_prompt_tokens=generation.computed_prompt_tokens,
        completion_tokens=generation.completion_tokens,
        are_answers_cut=found.is_cut,
        prompt_tokens_per_second=_rate(work.engines, speed.prompt_token),
        new_tokens_per_second=_rate(work.engines * at_a_time, speed.seconds(1, 0, at_a_time)),
        requests_at_a_time=at_a_time * work.engines,
        start_seconds=start,
        generate_seconds=generation.seconds,
        seconds=interval(seconds),
        cpu_hours=interval(seconds * machine.usable_cpus / 3600),
        num_shards=_shards(sample, generation, start, config, machine),
        probe_seconds=found.seconds,
        rounds=found.rounds,
    )


def _prompt_tokens(sample: Sample) -> Interval:
    """Of all requests that are computed, common beginnings counted each time."""
    lengths = np.array([len(answer.rows[0].token_ids) for answer in sample.answers for _ in range(answer.samples)])
    total = float(lengths.sum()) * sample.scale
    error = 0.0 if sample.is_whole else _QUANTILE * float(lengths.std()) / len(lengths) ** 0.5 / float(lengths.mean())
    return Interval(expected=total, low=total * (1 - error), high=total * (1 + error))


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds else 0.0


def _shards(sample: Sample, generation: Forecast, start: float, config: EstimateConfig, machine: Machine) -> int:
    """Enough that each pod, which has its own start, is done in the wanted hours."""
    hours = config.hours - start / 3600
    if hours <= 0:
        raise ConfigurationError(
            f"Each pod takes {start:.0f} s to start, so that no number of them is done in time",
            received=f"{config.hours} hours",
        )
    sharding = ShardingConfig(num_shards=AUTO, target_hours=hours, cpu=str(machine.usable_cpus))
    return sharding.shards(sample.all_rows, generation.seconds.high)
