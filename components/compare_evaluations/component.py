"""KFP step: a run against its pinned baseline, with the gate's outcome, the report, and the promotion."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def compare_evaluations(
    scores: dsl.Input[dsl.Dataset],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    baseline_uri: str = "",
    baseline_promote: bool = False,
    gate_margin: float = 0.02,
    run_uri: str = "",
    history_uri: str = "",
    storage_endpoint: str = "",
) -> str:
    """Compare scores with the baseline's on the rows of both; publish what was found; never fail for the outcome.

    Args:
        scores: Folder written by evaluate_completions.
        report: One HTML file with the changes, and the rows that turned first.
        summary: The short form of it.
        metrics: The changes.
        run_uri: Folder of the run, below which evaluation/ gets scores, report and comparison.
        history_uri: Folder below which earlier runs lie.

    Returns:
        The outcome: pass, fail, inconclusive or no_baseline.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.evaluation import comparing
    from kfp_llm_batch.steps import step, write_outputs

    with step(storage_endpoint):
        config = comparing.ComparisonConfig.from_parameters(parameters)
        found = comparing.compare_evaluations(config, Path(scores.path))
        for name, value in found.metrics.items():
            metrics.log_metric(name, value)
        write_outputs({report.path: found.html, summary.path: found.markdown})
    return found.outcome
