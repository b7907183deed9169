"""The step `quantize_model`: a plain model in, a smaller checkpoint and what the rounding costs out."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.engine.settings import answer_settings, choose_dtype
from kfp_llm_batch.errors import ConfigurationError, DataError
from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer
from kfp_llm_batch.generation.preparation import PreparedRow, RowPreparer
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.generation.survey import hashed_order
from kfp_llm_batch.machine import Machine, read_machine
from kfp_llm_batch.models.quantized_formats import supported_formats, unsupported_reason
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.quantization.comparison import Comparison, compare, measure
from kfp_llm_batch.quantization.config import SCHEMES, QuantizationConfig
from kfp_llm_batch.quantization.layers import LayerPlan
from kfp_llm_batch.quantization.making import check_is_plain, make_checkpoint
from kfp_llm_batch.quantization.publishing import check_output, publish_checkpoint, write_manifest

_LOG = logging.getLogger("kfp_llm_batch")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """The outcome."""

    model: Model
    """The original."""
    scheme: str
    plan: LayerPlan
    comparison: Comparison
    examples: tuple[tuple[str, str, str], ...]
    """Row id, the original's answer and the other's, for every row."""


def quantize(config: QuantizationConfig, prompts_folder: Path, folder: Path) -> Quantization:
    """Write the quantized checkpoint into `folder`, compare it with the original, publish it.

    All that can fail without weights fails before they are read. One model is in memory at a time.
    """
    machine = read_machine()
    _check_scheme(config.scheme, machine.instruction_set)
    prompts = Prompts(prompts_folder)
    model = resolve_model(config.model_uri, config.model_revision)
    check_is_plain(model)
    if config.output_uri:
        check_output(config.output_uri, model, config.scheme, overwrite=config.output_overwrite)
    rows = _held_out_rows(prompts, model, config)
    _LOG.info("Rounding the weights of %s as %s.", model.uri, config.scheme)
    plan = make_checkpoint(model, config.scheme, folder, machine)
    _LOG.info("%d layers are quantized, %d stay; answering %d prompts.", len(plan.quantized), len(plan.left), len(rows))
    outcome = _compared(config, model, plan, folder, rows, machine)
    write_manifest(folder, model, config.scheme, plan, dataclasses.asdict(outcome.comparison))
    if config.output_uri:
        publish_checkpoint(folder, config.output_uri, overwrite=config.output_overwrite)
    return outcome


def _check_scheme(scheme: str, instruction_set: str) -> None:
    if reason := unsupported_reason(SCHEMES[scheme].format, instruction_set):
        here = supported_formats(instruction_set)
        raise ConfigurationError(
            f"The result could not be run here: {reason}",
            received=f"quantization_scheme={scheme}",
            allowed=[name for name, made in SCHEMES.items() if made.format in here],
            remedy="The step compares both models on the CPU that it runs on; choose another node.",
        )


def _compared(
    config: QuantizationConfig, model: Model, plan: LayerPlan, folder: Path, rows: list[PreparedRow], machine: Machine
) -> Quantization:
    quantized = resolve_model(str(folder))
    before = measure(model, rows, config.evaluation_max_tokens, machine)
    after = measure(quantized, rows, config.evaluation_max_tokens, machine)
    ids = (row.row_id for row in rows)
    return Quantization(
        model=model,
        scheme=config.scheme,
        plan=plan,
        comparison=compare(before, after),
        examples=tuple(zip(ids, before.answers, after.answers, strict=True)),
    )


def _held_out_rows(prompts: Prompts, model: Model, config: QuantizationConfig) -> list[PreparedRow]:
    """A fair sample of the rows that have a prompt."""
    preparer = RowPreparer(
        tokenizer=ModelTokenizer(model.folder, "text"),
        sampling=SamplingConfig(max_tokens=config.evaluation_max_tokens),
        model_digest=model.digest,
        answer_settings=answer_settings(choose_dtype("auto", model.facts), {}),
        max_model_len=model.facts.max_model_len,
    )
    prepared = itertools.chain.from_iterable(preparer.prepare(prompts.batches_in(hashed_order(prompts))))
    rows = list(itertools.islice((row for row in prepared if row.fault is None), config.evaluation_rows))
    if not rows:
        raise DataError("No row of the held-out prompts can be answered", received=prompts.manifest.source_uri)
    return rows
