"""Entry point: each command is a function here, its work in a module of its own, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kfp_llm_batch import __version__
from kfp_llm_batch.cli import evaluation, kubeflow
from kfp_llm_batch.errors import ResultError, exit_with_message
from kfp_llm_batch.steps import configure_logging

app = typer.Typer(
    help="Batch LLM inference on CPU, as Kubeflow Pipelines components.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(kubeflow.submit)
app.command()(kubeflow.runs)
app.command()(kubeflow.wait)
app.command()(kubeflow.register)
app.add_typer(kubeflow.schedule_app, name="schedule")
app.add_typer(evaluation.baseline_app, name="baseline")
app.command("import-samples")(evaluation.import_samples)


def main() -> None:
    """Run the command line; errors that a user can mend are one message, without a traceback."""
    with exit_with_message():
        app()


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    configure_logging()


@app.command()
def run(
    pipeline: kubeflow.PipelineName,
    parameter: kubeflow.Assignments = None,
    params: kubeflow.ParameterFile = None,
    runner: Annotated[
        Literal["subprocess", "docker"], typer.Option(help="Steps as processes, or in containers of the runtime image.")
    ] = "subprocess",
    keep: Annotated[Path | None, typer.Option(help="Folder that keeps prompts, completions and report.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Short for -p output_overwrite=true.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Kubeflow's local runner says as well.")] = False,
) -> None:
    """Run a compiled pipeline here, through kfp.local.

    Example: kfp-llm-batch run batch_inference -p dataset_uri=questions.jsonl -p 'prompt_template={{ question }}'
    -p output_uri=results/first
    """
    from kfp_llm_batch.cli.local_run import run_pipeline
    from kfp_llm_batch.parameters import read_parameters
    from kfp_llm_batch.shipped import load_pipeline

    loaded = load_pipeline(pipeline)
    shorthand = ["output_overwrite=true"] if overwrite else []
    arguments = read_parameters(loaded, [*(parameter or []), *shorthand], params)
    run_pipeline(loaded, arguments, in_docker=runner == "docker", keep=keep, verbose=verbose)
    output_uri = arguments.get("output_uri")
    if output_uri and "evaluation_scorers" in loaded.inputs:
        from kfp_llm_batch.cli.evaluation_summary import print_last_evaluation

        print_last_evaluation(str(output_uri))
    elif output_uri:
        from kfp_llm_batch.cli.result_summary import print_summary

        print_summary(str(output_uri))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def estimate(
    context: typer.Context,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="As run takes them.")
    ] = None,
    params: Annotated[Path | None, typer.Option(help="JSON or YAML file with parameters; others win.")] = None,
    hours: Annotated[float, typer.Option(help="How long the pods should take, for the number of shards.")] = 1.0,
    probe_seconds: Annotated[float, typer.Option(help="To measure the engine, up to twice as long.")] = 30.0,
    output: kubeflow.OutputAs = "text",
) -> None:
    """Say how long a job will take on a machine as this one, and what it costs; nothing is written but a cache.

    Every parameter of batch_inference is an option as well, or is given as for run.

    Example: kfp-llm-batch estimate --dataset-uri questions.jsonl --prompt-template '{{ question }}'
    --generation-max-tokens 128 --hours 2
    """
    from kfp_llm_batch.cli.estimate import print_estimate, read_arguments
    from kfp_llm_batch.estimation.estimating import EstimateConfig

    arguments = read_arguments(context.args, parameter or [], params)
    config = EstimateConfig(hours=hours, probe_seconds=probe_seconds)
    print_estimate(arguments, config, as_json=output == "json")


@app.command()
def compile(
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if a file would change.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write all files into this folder instead.")] = None,
) -> None:
    """Compile every shipped component and pipeline to its YAML.

    Example: kfp-llm-batch compile --check
    """
    from kfp_llm_batch.cli.compilation import compile_all

    compile_all(output, check=check)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="Address of a result: a folder, s3:// or gs://.")],
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="DATASET_URI", help="Compare with this dataset as well: no row lost, invented or changed."
        ),
    ] = None,
) -> None:
    """Re-read a whole result and audit it against its manifest; exit 3 with what is wrong.

    Example: kfp-llm-batch verify s3://results/first --dataset questions.jsonl
    """
    from kfp_llm_batch.results.audit import audit_result

    report = audit_result(uri)
    print(report.to_text(), flush=True)
    if not report.ok:
        raise ResultError("The result is not what its manifest says", received=uri)
    if dataset is not None:
        _verify_dataset(uri, dataset)


def _verify_dataset(uri: str, dataset: str) -> None:
    from kfp_llm_batch.caches import set_hub_cache
    from kfp_llm_batch.results.dataset_comparison import compare_with_dataset

    set_hub_cache()
    comparison = compare_with_dataset(uri, dataset)
    print(comparison.to_text())
    if not comparison.ok:
        raise ResultError("The result does not hold exactly the rows of the dataset", received=comparison.uri)


@app.command()
def store(
    folder: Annotated[Path, typer.Option(help="Where the objects are kept.")] = Path(".kfp-llm-batch-store"),
    port: Annotated[int, typer.Option(help="Port of the S3 interface on 127.0.0.1.")] = 8333,
    bucket: Annotated[str, typer.Option(help="Bucket to create.")] = "results",
) -> None:
    """Start the embedded object store (SeaweedFS) for local work and keep it running until Ctrl-C.

    Example: kfp-llm-batch store --folder store
    """
    from kfp_llm_batch.cli.store import serve_store

    serve_store(folder, port, bucket)


@app.command()
def serve(
    model: Annotated[str, typer.Option("--model", "--model_dir", help="What model_uri takes.")] = "/mnt/models",
    name: Annotated[
        str, typer.Option("--model-name", "--model_name", help="Under which requests ask for it.")
    ] = "model",
    port: Annotated[int, typer.Option("--port", "--http_port", help="Of all interfaces.")] = 8080,
    context: Annotated[int, typer.Option(help="Most tokens of prompt and answer together.", min=32)] = 4096,
    max_requests: Annotated[int, typer.Option(help="Answered at a time; further ones wait.", min=1)] = 64,
    engine_options: Annotated[str, typer.Option(help="JSON, as in generate_completions.")] = "{}",
) -> None:
    """Serve a model with vLLM's OpenAI server, set up for this machine or pod, until SIGTERM or Ctrl-C.

    Example: kfp-llm-batch serve --model demo://smollm2-135m-instruct --model-name smollm2
    """
    from kfp_llm_batch.cli.serve import read_options, serve_model

    serve_model(
        model,
        name=name,
        port=port,
        context_tokens=context,
        max_requests=max_requests,
        engine_options=read_options(engine_options),
    )


@app.command()
def doctor(
    model_uri: Annotated[str | None, typer.Option(help="Model to plan for; the demo model without it.")] = None,
    rows: Annotated[int, typer.Option(help="Rows of the job to plan for.")] = 1000,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 200,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what this machine or pod is, which engine settings follow, and why.

    Example: kfp-llm-batch doctor --rows 10000 --max-tokens 128
    """
    from kfp_llm_batch.cli.doctor import print_report

    print_report(model_uri, rows=rows, prompt_tokens=prompt_tokens, max_tokens=max_tokens, as_json=as_json)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where dataset and store are kept.")] = Path(".demo"),
) -> None:
    """Run batch_inference on a few hundred generated questions with real vLLM and the embedded store.

    Example: kfp-llm-batch demo
    """
    from kfp_llm_batch.cli.demo import run_demo

    run_demo(folder)
