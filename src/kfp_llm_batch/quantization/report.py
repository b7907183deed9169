"""What the Kubeflow UI shows of a quantization: metrics and a short Markdown report."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict

from kfp_llm_batch.generation.report import escape
from kfp_llm_batch.quantization.quantizing import Quantization

SAMPLE_ROWS = 5
SAMPLE_LAYERS = 20


def metrics(outcome: Quantization) -> dict[str, float]:
    """Finite numbers by name; the Kubeflow UI refuses others."""
    values = {
        **dataclasses.asdict(outcome.comparison),
        "layers_quantized": len(outcome.plan.quantized),
        "layers_left": len(outcome.plan.left),
    }
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}


def markdown_report(outcome: Quantization) -> str:
    """The comparison, the layers that stay with the reasons, and answers that differ; nothing acts as markup."""
    sections = [
        f"# {escape(outcome.model.uri)} as {escape(outcome.scheme)}",
        _comparison_table(outcome),
        "Agreement is of greedy answers to held-out prompts, as whole texts and as the part that both begin with. "
        "Tokens per second are generated ones, in short requests on this machine.",
        f"## Layers that stay as they were\n\n{_left_layers(outcome)}",
    ]
    if differing := _differing_answers(outcome):
        sections.append(f"## First answers that differ\n\n| row | original | quantized |\n|---|---|---|\n{differing}")
    return "\n\n".join(sections) + "\n"


def _comparison_table(outcome: Quantization) -> str:
    found = outcome.comparison
    rows = [
        ("size of the weights, MiB", found.weight_bytes_original / 2**20, found.weight_bytes_quantized / 2**20),
        ("perplexity of the prompts", found.perplexity_original, found.perplexity_quantized),
        ("tokens per second", found.tokens_per_second_original, found.tokens_per_second_quantized),
    ]
    lines = [f"| {name} | {before:,.2f} | {after:,.2f} | {_change(before, after)} |" for name, before, after in rows]
    lines.append(f"| same answer, of {found.rows} rows | | {found.exact_agreement:.1%} | |")
    lines.append(f"| common beginning of the answers | | {found.common_prefix_share:.1%} | |")
    header = f"| | original | {escape(outcome.scheme)} | change |\n|---|---|---|---|\n"
    return header + "\n".join(lines)


def _change(before: float, after: float) -> str:
    return f"{after / before - 1:+.1%}" if before else ""


def _left_layers(outcome: Quantization) -> str:
    by_reason = defaultdict(list)
    for name, reason in outcome.plan.left.items():
        by_reason[reason].append(name)
    return "\n".join(f"- {escape(reason)}: {_listed(names)}" for reason, names in by_reason.items())


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SAMPLE_LAYERS} more" if len(names) > SAMPLE_LAYERS else ""
    return ", ".join(map(escape, names[:SAMPLE_LAYERS])) + more


def _differing_answers(outcome: Quantization) -> str:
    differing = [row for row in outcome.examples if row[1] != row[2]][:SAMPLE_ROWS]
    return "\n".join("| " + " | ".join(map(escape, row)) + " |" for row in differing)
