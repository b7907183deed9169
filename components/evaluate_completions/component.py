"""KFP step: completions and targets become a table of scores."""

from kfp import dsl
from kfp_llm_batch.components.step_component import step_component


@step_component
def evaluate_completions(
    scores: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    classification: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    evaluation_scorers: list = ["truncation", "empty", "refusal", "repetition", "length"],
    evaluation_target_column: str = "",
    evaluation_slice_columns: list = [],
    evaluation_cluster_column: str = "",
    evaluation_missing: str = "wrong",
    result_uri: str = "",
    storage_endpoint: str = "",
    completions: dsl.Input[dsl.Dataset] = None,
    canary: dsl.Input[dsl.Dataset] = None,
) -> None:
    """Score every row, with intervals and slices; scoring again never generates again.

    Args:
        scores: Folder with scores.parquet and a manifest.
        metrics: Every metric with the ends of its interval.
        classification: Confusion matrix of the scorer classification, if it is used.
        report: One HTML file with metrics, slices, distributions and a browser of rows.
        result_uri: Address of a stored result to score, instead of completions.
        completions: Folder written by generate_completions.
        canary: Folder written by answer_again, for the noise floor.
    """
    parameters = dict(locals())
    from pathlib import Path

    from kfp_llm_batch.evaluation import reporting, scoring
    from kfp_llm_batch.evaluation.config import EvaluationConfig
    from kfp_llm_batch.steps import step, write_outputs

    with step(storage_endpoint):
        config = EvaluationConfig.from_parameters(parameters)
        with scoring.completions_folder(Path(completions.path) if completions else None, result_uri or None) as folder:
            again = Path(canary.path) if canary else None
            manifest = scoring.evaluate(config, folder, Path(scores.path), again)
        for name, value in reporting.metrics(manifest).items():
            metrics.log_metric(name, value)
        for matrix in manifest.confusion.values():
            classification.log_confusion_matrix(matrix["classes"], matrix["matrix"])
        write_outputs({report.path: reporting.html_of_run(Path(scores.path))})
