"""The step `generate_completions`: prompts in, a local result folder out."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from kfp_llm_batch import termination
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.disk import temporary_folder
from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.decisions import Setting
from kfp_llm_batch.engine.devices import CPU, choose_device, installed_build
from kfp_llm_batch.engine.group import EngineGroup
from kfp_llm_batch.engine.planning import is_computed_here
from kfp_llm_batch.engine.process_environment import check_engine_cache, engine_environment
from kfp_llm_batch.engine.settings import answer_settings, choose_dtype
from kfp_llm_batch.engine.shares import Placement, place
from kfp_llm_batch.engine.warming import take_engine_cache
from kfp_llm_batch.garbage import rare_garbage_collection
from kfp_llm_batch.generation.chat_tokenizer import ChatTokenizer, EchoTokenizer, ModelTokenizer
from kfp_llm_batch.generation.checkpoint import Checkpoint, RowIndex
from kfp_llm_batch.generation.config import GenerationConfig, generation_fields
from kfp_llm_batch.generation.deadline import Deadline
from kfp_llm_batch.generation.earlier_result import EarlierResult
from kfp_llm_batch.generation.error_budget import ErrorBudget
from kfp_llm_batch.generation.parts import PartWriter
from kfp_llm_batch.generation.preparation import RowPreparer
from kfp_llm_batch.generation.provenance import Origin
from kfp_llm_batch.generation.reuse import share_answers, shared_answers
from kfp_llm_batch.generation.run import GenerationRun
from kfp_llm_batch.generation.survey import Survey
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.results.publishing import check_destination, existing_result, fetch_result
from kfp_llm_batch.results.stored_result import check_replaceable

_LOG = logging.getLogger("kfp_llm_batch")


def generate(config: GenerationConfig, prompts_folder: Path, result_folder: Path) -> ResultManifest:
    """Answer every row of `prompts_folder` and write a result into `result_folder`.

    All that can fail without weights fails before they load. Answers that a checkpoint holds are not generated again.

    Raises:
        BatchError: See errors.py.
    """
    deadline, prompts = Deadline(config.max_duration_seconds), Prompts(prompts_folder)
    if config.output_uri:
        check_destination(config.output_uri)
    checkpoint = Checkpoint(config.effective_checkpoint_uri) if config.effective_checkpoint_uri else None
    shared = shared_answers(config)
    model, machine = resolve_model(config.model_uri, config.model_revision), read_machine()
    placement = choose_placement(config, prompts, model, machine)
    budget = ErrorBudget(
        config.max_error_rate, config.rows_of_all_shards or prompts.manifest.rows, is_shard=config.is_shard
    )
    _clear(result_folder)
    with (
        rare_garbage_collection(),
        termination.Termination(),
        temporary_folder() as folder,
        make_engines(config, model, placement) as engine,
    ):
        run = GenerationRun(
            config=config,
            prompts=prompts,
            model=model,
            machine=machine,
            placement=placement,
            engine=engine,
            preparer=make_preparer(config, model),
            writer=PartWriter(result_folder, prompts, budget.count),
            budget=budget,
            deadline=deadline,
            earlier=_earlier_result(config, folder),
            origin=_origin(config, prompts),
        )
        return _result(run, checkpoint, shared, result_folder)


def _result(
    run: GenerationRun, checkpoint: Checkpoint | None, shared: Checkpoint | None, folder: Path
) -> ResultManifest:
    # Of many shards, each would read all that is shared: it was handed out when the dataset was split.
    sources = [source for source in (checkpoint, None if run.config.is_shard else shared) if source]
    index = RowIndex() if any(source.part_names() for source in sources) else None
    survey = run.survey(index)
    if existing := _same_result(run, survey):
        return fetch_result(existing, folder)
    run.take_over(survey, sources, index)
    if checkpoint:
        run.writer.keep_parts(checkpoint.save)
    manifest = run.answer(survey)
    if shared:
        share_answers(shared, folder, manifest.parts, run.origin.provenance(manifest.created_at))
    manifest.save(folder)
    return manifest


def _earlier_result(config: GenerationConfig, folder: Path) -> EarlierResult | None:
    return EarlierResult(config.retry_of, folder, config.retry_error_codes) if config.retry_of else None


def _origin(config: GenerationConfig, prompts: Prompts) -> Origin:
    work = {"dataset": prompts.manifest.fingerprint, "generation": generation_fields(config)}
    return config.origin or Origin.of(config.output_uri, **work)


def choose_placement(config: GenerationConfig, prompts: Prompts, model: Model, machine: Machine) -> Placement:
    """Where the engines run, their caches being in place."""
    if not is_computed_here(model, config.engine_options):
        one = Setting(value=1, reason="nothing is computed here")
        return Placement(device=Setting(value=CPU, reason=one.reason), engines=one, shares=(machine,))
    device = choose_device(config.engine_device, machine, installed_build())
    if config.engine_cache:
        take_engine_cache(config.engine_cache, machine)
    check_engine_cache(machine)
    requests = prompts.manifest.rows * config.sampling.n
    return place(machine, model.facts, requests, device, config.engine_options)


def make_engines(config: GenerationConfig, model: Model, placement: Placement) -> EngineGroup:
    """One engine for each share, not started yet; an endpoint counts as one."""
    if endpoint.URL_OPTION in config.engine_options:
        return EngineGroup(endpoint.KIND, [{}])
    environments = [engine_environment(share, placement.device, config.engine_options) for share in placement.shares]
    return EngineGroup(model.engine, environments)


def make_preparer(config: GenerationConfig, model: Model) -> RowPreparer:
    """What turns rows into requests, with the model's tokenizer."""
    tokenizer: ChatTokenizer = EchoTokenizer()
    if model.engine != "echo":
        tokenizer = ModelTokenizer(model.folder, config.special_tokens)
    dtype = choose_dtype(config.engine_dtype, model.facts)
    return RowPreparer(
        tokenizer=tokenizer,
        sampling=config.sampling,
        model_digest=model.digest,
        answer_settings=answer_settings(dtype, config.engine_options),
        max_model_len=config.engine_options.get("max_model_len", model.facts.max_model_len),
        context_policy=config.context_policy,
    )


def _clear(result_folder: Path) -> None:
    """Remove what an earlier run left there, its manifest first: without it the rest means nothing."""
    (result_folder / FILE_NAME).unlink(missing_ok=True)
    for name in ("parts", "errors"):
        shutil.rmtree(result_folder / name, ignore_errors=True)


def _same_result(run: GenerationRun, survey: Survey) -> str | None:
    """Address of the result at the destination, if it answers exactly these rows; another one is an error."""
    config, fingerprint = run.config, run.prompts.manifest.fingerprint
    if not config.output_uri or config.output_overwrite:
        return None
    existing = existing_result(config.output_uri)
    if existing is None or _is_beginning(existing, run):
        return None
    wanted = (survey.keys.hexdigest(), fingerprint, config.output_format)
    if (existing.keys_checksum, existing.dataset.get("fingerprint"), existing.output_format) != wanted:
        check_replaceable(existing, config.output_uri, overwrite=False)
    _LOG.info("The result at %s already answers exactly these rows; nothing is generated.", config.output_uri)
    return config.output_uri


def _is_beginning(existing: ResultManifest, run: GenerationRun) -> bool:
    """Whether a partial result is of this very work, which the run may then go on with."""
    work = (run.prompts.manifest.fingerprint, run.model.digest, generation_fields(run.config)["sampling"])
    return existing.is_partial and work == (
        existing.dataset.get("fingerprint"),
        existing.model.get("digest"),
        existing.sampling,
    )
