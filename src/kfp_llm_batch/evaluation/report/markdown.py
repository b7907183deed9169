"""The short form of a report, for logs and for Kubeflow's Markdown view."""

from __future__ import annotations

from kfp_llm_batch.evaluation.report.content import ReportInput, content
from kfp_llm_batch.generation.report import escape


def markdown_report(given: ReportInput) -> str:
    """Outcome, metrics and what is not like for like; nothing that the model wrote is in it."""
    values = content(given, with_rows=False)
    sections = [f"# {values['headline']}"]
    if values["reason"]:
        sections.append(escape(values["reason"]))
    sections.append("\n".join(f"- {name}: {escape(value)}" for name, value in values["facts"]))
    if values["warnings"]:
        sections.append("## Not like for like\n\n" + "\n".join(f"- {escape(text)}" for text in values["warnings"]))
    sections.append(_table(values["metrics"], is_compared=given.comparison is not None))
    if values["noise"]:
        sections.append(escape(values["noise"]))
    return "\n\n".join(sections) + "\n"


def _table(lines: list[dict[str, str]], *, is_compared: bool) -> str:
    names = ["metric", "value", "95% interval", "rows scored"]
    keys = ["name", "value", "interval", "rows"]
    if is_compared:
        names += ["change", "its interval", "turned", "p (Holm)"]
        keys += ["change", "change_interval", "turned", "p"]
    rows = ["| " + " | ".join(escape(line.get(key, "")) for key in keys) + " |" for line in lines]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *rows])
