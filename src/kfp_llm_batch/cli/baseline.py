"""The commands around baselines: which run it is, and making another one it."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(
    help="The run that evaluations are compared with.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_POINTER = typer.Argument(help="Address of the pointer, as in the parameter baseline_uri.")


@app.command()
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


@app.command()
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
