"""The commands around evaluations: baselines, and what lm-evaluation-harness measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

baseline_app = typer.Typer(
    help="The run that evaluations are compared with.", no_args_is_help=True, rich_markup_mode=None
)

_POINTER = typer.Argument(help="Address of the pointer, as in the parameter baseline_uri.")


@baseline_app.command()
def show(baseline_uri: Annotated[str, _POINTER]) -> None:
    """Show which run is the baseline, since when and why.

    Example: kfp-llm-batch baseline show s3://results/baselines/gsm8k.json
    """
    from kfp_llm_batch.errors import ResultError
    from kfp_llm_batch.evaluation.baselines import BaselinePointer

    baseline = BaselinePointer(baseline_uri).read()
    if baseline is None:
        raise ResultError("There is no baseline yet", received=baseline_uri)
    print(baseline.to_json(), end="")


@baseline_app.command()
def promote(
    run_uri: Annotated[str, typer.Argument(help="Folder of an evaluated run.")],
    baseline_uri: Annotated[str, _POINTER],
    reason: Annotated[str, typer.Option(help="Why; kept in the pointer.")] = "promoted by hand",
) -> None:
    """Make an evaluated run the baseline, whatever its gate said.

    Example: kfp-llm-batch baseline promote s3://results/gsm8k/2f6c01 s3://results/baselines/gsm8k.json
    """
    from kfp_llm_batch.evaluation.baselines import BaselinePointer
    from kfp_llm_batch.evaluation.history import EVALUATION_FOLDER
    from kfp_llm_batch.storage.uris import join_uri

    uri = run_uri.rstrip("/")
    folder = uri if uri.endswith(f"/{EVALUATION_FOLDER}") else join_uri(uri, EVALUATION_FOLDER)
    baseline = BaselinePointer(baseline_uri).promote(folder, reason)
    print(f"baseline: {baseline.evaluation_uri}")
    if baseline.previous_uri:
        print(f"before:   {baseline.previous_uri}")


def import_samples(
    samples: Annotated[
        Path, typer.Argument(help="samples_<task>_<date>.jsonl of lm_eval --log_samples, or its folder.")
    ],
    run_uri: Annotated[str, typer.Argument(help="Folder of the run: gets the answers, the scores and the report.")],
    model: Annotated[str, typer.Option(help="What answered; without it the name of the samples' folder.")] = "",
    baseline_uri: Annotated[str, typer.Option(help="Address of the pointer to the baseline.")] = "",
    promote: Annotated[bool, typer.Option(help="Make the run the baseline if it passes, or is the first.")] = False,
    margin: Annotated[float, typer.Option(help="Largest accepted loss; 0.02 is two points.")] = 0.02,
) -> None:
    """Take over the samples of lm-evaluation-harness: answers and scores, compared and reported as our own.

    Example: kfp-llm-batch import-samples out/model/samples_gsm8k_2025-01-01T00-00-00.jsonl s3://results/gsm8k/one
    """
    from kfp_llm_batch.evaluation.comparing import ComparisonConfig
    from kfp_llm_batch.evaluation.gate import GateConfig, enforce
    from kfp_llm_batch.evaluation.harness_runs import publish_samples

    config = ComparisonConfig(
        gate=GateConfig(margin=margin), baseline_uri=baseline_uri or None, promote=promote, run_uri=run_uri
    )
    outcome = publish_samples(samples, config, model or None)
    print(f"outcome: {outcome}")
    print(f"report:  {config.evaluation_uri}/report.html")
    enforce(outcome, config.gate, run_uri)
