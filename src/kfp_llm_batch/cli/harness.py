"""The command that takes over what lm-evaluation-harness measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
