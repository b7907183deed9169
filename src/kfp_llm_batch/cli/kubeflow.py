"""The commands that speak to Kubeflow Pipelines; what they do is in kfp_llm_batch.client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kfp_llm_batch.parameters import read_parameters
from kfp_llm_batch.shipped import CompiledPipeline, load_pipeline, shipped_pipelines

if TYPE_CHECKING:
    from kfp_llm_batch.client import Submission

_INTERRUPTED = 130
"""What a shell gives for Ctrl-C."""

schedule_app = typer.Typer(help="Run a pipeline again and again.", no_args_is_help=True, rich_markup_mode=None)

State = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"]
PipelineName = Annotated[str, typer.Argument(help="Name of a shipped pipeline, or the path of a compiled one.")]
Assignments = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="NAME=VALUE", help="Lists and objects as JSON.")
]
ParameterFile = Annotated[Path | None, typer.Option(help="JSON or YAML file with parameters; -p wins.")]
Experiment = Annotated[str, typer.Option(help="Experiment; created where it is missing.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Caching off for every step, those in loops as well.")]
ServiceAccount = Annotated[str, typer.Option(help="Kubernetes service account of the pods.")]
Volume = Annotated[
    str, typer.Option(metavar="CLAIM:PATH", help="PersistentVolumeClaim for all steps, such as models:/models.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the request that would be sent; no server is asked.")]
Host = Annotated[
    str, typer.Option(envvar="KF_PIPELINES_ENDPOINT", help="Address of Kubeflow Pipelines; in a pod the cluster's own.")
]
Namespace = Annotated[
    str, typer.Option(envvar="KFP_LLM_BATCH_NAMESPACE", help="Your profile, if Kubeflow has profiles.")
]
OutputAs = Annotated[Literal["text", "json"], typer.Option("--output", help="For people or for programs.")]
ScheduleName = Annotated[str, typer.Argument(help="Name of the schedule.")]


def submit(
    pipeline: PipelineName,
    parameter: Assignments = None,
    params: ParameterFile = None,
    name: Annotated[str, typer.Option(help="Name of the run.")] = "",
    experiment: Experiment = "Default",
    no_cache: NoCache = False,
    service_account: ServiceAccount = "",
    volume: Volume = "",
    dry_run: DryRun = False,
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """Start a run on Kubeflow Pipelines.

    Example: kfp-llm-batch submit batch_inference -p dataset_uri=s3://data/questions.jsonl
    -p 'prompt_template={{ question }}' -p output_uri=s3://results/first --dry-run
    """
    from kfp_llm_batch.cli.kubeflow_output import print_request, print_run
    from kfp_llm_batch.client import connect, run_request, send_run

    loaded, values = _read(pipeline, parameter, params)
    submission = _submission(experiment, no_cache, service_account, volume)
    request = run_request(loaded, values, name=name, submission=submission)
    if dry_run:
        print_request(request)
        return
    run = send_run(request, connect(host, namespace))
    print_run(run, as_json=output == "json", is_new=True)


def runs(
    experiment: Annotated[str, typer.Option(help="Only those of this experiment.")] = "",
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many, the newest first.")] = 20,
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """List runs on Kubeflow Pipelines.

    Example: kfp-llm-batch runs --experiment nightly --state FAILED
    """
    import itertools

    from kfp_llm_batch.cli.kubeflow_output import print_runs
    from kfp_llm_batch.client import connect, list_runs

    found = list_runs(experiment=experiment, client=connect(host, namespace))
    wanted = (run for run in found if state is None or run.state == state)
    print_runs(list(itertools.islice(wanted, limit)), as_json=output == "json")


def wait(
    run_id: Annotated[str, typer.Argument(help="Id of the run, as submit prints it.")],
    timeout: Annotated[float, typer.Option(min=0, help="Seconds; the waiting ends then, not the run.")] = 86_400,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 10,
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """Wait for a run; exit 9 with its steps' messages unless it succeeds, 6 if the time is over.

    Example: kfp-llm-batch wait 5f1c3a7e-0d52-4c59-9a2e-2b8f6f0c1d11 --timeout 3600
    """
    from kfp_llm_batch import client
    from kfp_llm_batch.cli.kubeflow_output import print_run

    connection = client.connect(host, namespace)
    try:
        run = client.wait(run_id, timeout_seconds=timeout, interval_seconds=interval, client=connection)
    except KeyboardInterrupt:
        typer.echo(f"The waiting ended; the run goes on. Wait again: kfp-llm-batch wait {run_id}", err=True)
        raise typer.Exit(_INTERRUPTED) from None
    print_run(run, as_json=output == "json")


def register(
    pipelines: Annotated[
        list[str] | None, typer.Argument(help="Names of shipped pipelines or paths of compiled ones; all shipped ones.")
    ] = None,
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """Upload pipelines to Kubeflow, where the UI then offers them with a form; a changed one is a new version.

    Example: kfp-llm-batch register batch_inference
    """
    from kfp_llm_batch import client
    from kfp_llm_batch.cli.kubeflow_output import print_json

    connection = client.connect(host, namespace)
    made = [client.register(name, client=connection) for name in pipelines or shipped_pipelines()]
    if output == "json":
        print_json([registration.as_dict() for registration in made])
        return
    for registration in made:
        print(f"pipeline: {registration.name}, {registration.change}, version {registration.version}")


@schedule_app.command("add")
def schedule_add(
    pipeline: PipelineName,
    cron: Annotated[str, typer.Option(help="Five fields, as in crontab, or six with the seconds first.")],
    parameter: Assignments = None,
    params: ParameterFile = None,
    name: Annotated[str, typer.Option(help="Name of the schedule; the pipeline's if left out.")] = "",
    timezone: Annotated[
        str, typer.Option(help="Zone that the server counts in, its CRON_SCHEDULE_TIMEZONE; it cannot be chosen here.")
    ] = "UTC",
    catch_up: Annotated[bool, typer.Option("--catch-up", help="Make up for times that passed while it was off.")] = (
        False
    ),
    disabled: Annotated[bool, typer.Option("--disabled", help="Leave it switched off.")] = False,
    experiment: Experiment = "Default",
    no_cache: NoCache = False,
    service_account: ServiceAccount = "",
    volume: Volume = "",
    dry_run: DryRun = False,
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """Create a schedule, or replace the one of that name; shows the next five times.

    Example: kfp-llm-batch schedule add batch_inference --name nightly --cron '0 3 * * *'
    -p dataset_uri=s3://data/questions.jsonl -p 'prompt_template={{ question }}'
    -p 'output_uri=s3://results/[[ScheduledTime]]' --dry-run
    """
    from kfp_llm_batch.cli.kubeflow_output import print_request, print_schedule
    from kfp_llm_batch.client import Recurrence, connect, schedule_request, send_schedule

    recurrence = Recurrence(cron=cron, timezone=timezone, catch_up=catch_up, enabled=not disabled)
    loaded, values = _read(pipeline, parameter, params)
    submission = _submission(experiment, no_cache, service_account, volume)
    request = schedule_request(loaded, values, recurrence, name=name, submission=submission)
    if dry_run:
        print_request(request, recurrence.times)
        return
    made, change = send_schedule(request, connect(host, namespace))
    print_schedule(made, change, recurrence.times, as_json=output == "json")


@schedule_app.command("list")
def schedule_list(
    timezone: Annotated[str, typer.Option(help="Zone that the server counts in.")] = "UTC",
    host: Host = "",
    namespace: Namespace = "",
    output: OutputAs = "text",
) -> None:
    """List the schedules with their next time.

    Example: kfp-llm-batch schedule list --output json
    """
    from kfp_llm_batch.cli.kubeflow_output import print_schedules
    from kfp_llm_batch.client import connect, list_schedules

    found = list_schedules(connect(host, namespace))
    print_schedules(found, timezone, as_json=output == "json")


@schedule_app.command("enable")
def schedule_enable(name: ScheduleName, host: Host = "", namespace: Namespace = "", output: OutputAs = "text") -> None:
    """Switch a schedule on.

    Example: kfp-llm-batch schedule enable nightly
    """
    from kfp_llm_batch import client

    _print_change(client.enable(name, client.connect(host, namespace)).as_dict(), "enabled", output)


@schedule_app.command("disable")
def schedule_disable(name: ScheduleName, host: Host = "", namespace: Namespace = "", output: OutputAs = "text") -> None:
    """Switch a schedule off; runs that have begun go on.

    Example: kfp-llm-batch schedule disable nightly
    """
    from kfp_llm_batch import client

    _print_change(client.disable(name, client.connect(host, namespace)).as_dict(), "disabled", output)


@schedule_app.command("delete")
def schedule_delete(name: ScheduleName, host: Host = "", namespace: Namespace = "", output: OutputAs = "text") -> None:
    """Delete a schedule; its runs stay.

    Example: kfp-llm-batch schedule delete nightly
    """
    from kfp_llm_batch import client

    number = client.delete(name, client.connect(host, namespace))
    _print_change({"name": name, "deleted": number}, "deleted", output)


def _read(pipeline: str, assignments: list[str] | None, file: Path | None) -> tuple[CompiledPipeline, dict[str, Any]]:
    loaded = load_pipeline(pipeline)
    return loaded, read_parameters(loaded, assignments or [], file)


def _submission(experiment: str, no_cache: bool, service_account: str, volume: str) -> Submission:
    from kfp_llm_batch.client import Submission

    return Submission(experiment=experiment, cache=not no_cache, service_account=service_account, volume=volume)


def _print_change(facts: dict[str, Any], change: str, output: str) -> None:
    from kfp_llm_batch.cli.kubeflow_output import print_json

    if output == "json":
        print_json(facts)
    else:
        print(f"schedule: {facts['name']}, {change}")
