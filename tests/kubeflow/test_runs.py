import copy
import threading
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp_server_api import ApiException

from kfp_llm_batch.client import CreateRequest, Submission, get_run, list_runs, results, run_request, submit, wait
from kfp_llm_batch.client import runs as runs_module
from kfp_llm_batch.client.failures import NotFoundOnServerError
from kfp_llm_batch.errors import ConfigurationError, InterruptedRunError, RunError, ServerError
from kfp_llm_batch.shipped import CompiledPipeline, load_pipeline, shipped_pipelines
from tests.kubeflow.contract import find_operation

PARAMETERS = {"dataset_uri": "s3://data/q.jsonl", "prompt_template": "{{ question }}", "output_uri": "s3://results/1"}


SAMPLES: dict[str, object] = {"STRING": "text", "NUMBER_INTEGER": 1, "NUMBER_DOUBLE": 0.5, "BOOLEAN": True}


def required(pipeline: CompiledPipeline) -> dict[str, object]:
    entries = {name: entry for name, entry in pipeline.inputs.items() if not entry.get("isOptional")}
    return {name: SAMPLES.get(entry["parameterType"], []) for name, entry in entries.items()}


@pytest.mark.parametrize("name", shipped_pipelines())
def test_every_shipped_pipeline_is_sent_as_it_is_committed(name, server, client):
    run = submit(name, required(load_pipeline(name)), client=client)
    (request,) = [request for request in server.sent("POST") if request.path.endswith("/runs")]
    committed = list(yaml.safe_load_all(Path(str(files("kfp_llm_batch.pipelines")), name, "pipeline.yaml").read_text()))
    assert request.body["pipeline_spec"] == {"pipeline_spec": committed[0], "platform_spec": committed[1]}
    assert run.run_id in server.state.runs


def test_the_request_is_the_one_that_was_shown(server, client):
    shown = run_request("batch_inference", PARAMETERS, name="first", submission=Submission(service_account="runner"))
    submit("batch_inference", PARAMETERS, name="first", submission=Submission(service_account="runner"), client=client)
    experiment, run = server.sent("POST")
    assert experiment.body == {"display_name": "Default"}
    assert run.path == shown.path
    assert run.body == {**shown.body, "experiment_id": next(iter(server.state.experiments))}
    assert run.body["service_account"] == "runner"


def test_a_request_is_what_the_contract_allows():
    request = run_request("batch_inference", PARAMETERS)
    operation = find_operation("POST", request.path)
    assert operation is not None
    assert operation.problems_of_request({}, request.body) == []
    assert operation.problems_of_request({}, {**request.body, "display_name": 5, "invented": 1}) != []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"datset_limit": 5}, "Did you mean 'dataset_limit'"),
        ({"dataset_limit": "5"}, "dataset_limit has the wrong type"),
        ({"dataset_uri": None}, "needs more parameters: dataset_uri"),
        ({"prompt_template": "{{$.inputs}}"}, "holds a placeholder"),
    ],
    ids=["name", "type", "missing", "placeholder"],
)
def test_a_wrong_parameter_is_refused_before_anything_is_sent(given, message, server, client):
    before = len(server.requests)
    with pytest.raises(ConfigurationError, match=message):
        submit("batch_inference", PARAMETERS | given, client=client)
    assert len(server.requests) == before


def test_caching_is_off_in_every_graph_when_asked(server, client):
    pipeline = with_nested_graph()
    submit(pipeline, PARAMETERS, client=client)
    submit(pipeline, PARAMETERS, submission=Submission(cache=False), client=client)
    kept, off = [request.body["pipeline_spec"]["pipeline_spec"] for request in server.sent("POST")[1:]]
    assert cached_tasks(kept) == ["nested"]
    assert cached_tasks(off) == []


def with_nested_graph() -> CompiledPipeline:
    """The shipped pipeline with a loop around one of its tasks, in which caching is on."""
    documents = copy.deepcopy(load_pipeline("batch_inference").documents)
    task = {"componentRef": {"name": "comp-load-dataset"}, "cachingOptions": {"enableCache": True}}
    documents[0]["components"]["comp-for-loop-1"] = {"dag": {"tasks": {"nested": task}}}
    return CompiledPipeline(name="nested", documents=documents)


def cached_tasks(specification) -> list[str]:
    graphs = [specification["root"], *specification["components"].values()]
    tasks = {name: task for graph in graphs for name, task in graph.get("dag", {}).get("tasks", {}).items()}
    return [name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")]


def test_a_volume_is_mounted_in_every_step():
    request = run_request("batch_inference", PARAMETERS, submission=Submission(volume="models:/models"))
    plain = run_request("batch_inference", PARAMETERS)
    executors = settings_of(request)
    assert executors.keys() == plain.body["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].keys()
    for name, setting in executors.items():
        config = json_format.ParseDict(setting, KubernetesExecutorConfig())
        (mount,) = config.pvc_mount
        assert mount.mount_path == "/models"
        assert mount.pvc_name_parameter.runtime_value.constant.string_value == "models"
        assert {key: value for key, value in setting.items() if key != "pvcMount"} == settings_of(plain)[name]


def settings_of(request: CreateRequest) -> dict[str, dict[str, object]]:
    platform = request.body["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]
    executors: dict[str, dict[str, object]] = platform["deploymentSpec"]["executors"]
    return executors


@pytest.mark.parametrize("volume", ["models", "models:relative", "Models:/models", ":/models"])
def test_a_volume_that_is_none_is_refused(volume):
    with pytest.raises(ConfigurationError, match="Write it as models:/models"):
        Submission(volume=volume)


def test_kfps_own_schedules_are_not_what_the_contract_says(server, client, tmp_path):
    """The contract has texts where kfp's client sends whole numbers; the server itself takes both."""
    submit("batch_inference", PARAMETERS, client=client)
    package = tmp_path / "pipeline.yaml"
    package.write_text(yaml.safe_dump_all(load_pipeline("batch_inference").documents))
    experiment = next(iter(server.state.experiments))
    with pytest.raises(ApiException, match="max_concurrency: 1 is not of type 'string'"):
        client.create_recurring_run(
            experiment, "name", cron_expression="0 0 3 * * *", params=PARAMETERS, pipeline_package_path=str(package)
        )


def test_parameters_that_the_server_refuses_for_their_size_are_named(server, client, caplog):
    with pytest.raises(ServerError, match="exceed maximum size"):
        submit("batch_inference", PARAMETERS | {"prompt_template": "x" * 10_001}, client=client)


def test_a_run_succeeds(server, client):
    run = submit("batch_inference", PARAMETERS, client=client)
    assert run.state == "PENDING"
    finished = wait(run.run_id, interval_seconds=0.01, client=client)
    assert finished.state == "SUCCEEDED"
    assert finished.created_at is not None
    assert finished.finished_at is not None
    assert finished.finished_at > finished.created_at
    assert finished.parameters == PARAMETERS
    assert results(finished).uri == "s3://results/1"


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (("RUNNING", "FAILED"), r"failed: step generate-completions failed \(EngineError: The engine ended.\)"),
        (("PENDING", "SKIPPED"), "was skipped"),
        (("RUNNING", "CANCELING", "CANCELED"), "was cancelled"),
    ],
    ids=["failed", "skipped", "cancelled"],
)
def test_other_ends_are_told_apart(states, message, server, client):
    server.state.next_states = states
    run = submit("batch_inference", PARAMETERS, client=client)
    with pytest.raises(RunError, match=message):
        wait(run.run_id, interval_seconds=0.01, client=client)


def test_a_run_that_somebody_terminates_is_noticed(server, client):
    server.state.next_states = ("RUNNING",)
    run = submit("batch_inference", PARAMETERS, client=client)
    threading.Timer(0.1, client.terminate_run, [run.run_id]).start()
    with pytest.raises(RunError, match="was cancelled"):
        wait(run.run_id, interval_seconds=0.02, client=client)


def test_the_waiting_ends_in_time(server, client):
    server.state.next_states = ("RUNNING",)
    run = submit("batch_inference", PARAMETERS, client=client)
    with pytest.raises(InterruptedRunError, match="not over after 0 s"):
        wait(run.run_id, timeout_seconds=0.05, interval_seconds=0.01, client=client)


def test_the_waiting_outlasts_a_server_that_starts_anew(server, client):
    run = submit("batch_inference", PARAMETERS, client=client)
    server.fail(500, times=3, operation="GetRun")
    assert wait(run.run_id, interval_seconds=0.01, client=client).state == "SUCCEEDED"


def test_the_waiting_does_not_outlast_everything(server, client, monkeypatch):
    monkeypatch.setattr(runs_module, "_OUTAGE_SECONDS", 0.05)
    run = submit("batch_inference", PARAMETERS, client=client)
    server.fail(500, times=10_000, operation="GetRun")
    with pytest.raises(ServerError, match="answered 500"):
        wait(run.run_id, interval_seconds=0.01, client=client)


def test_a_run_that_is_not_there_is_no_reason_to_wait(server, client):
    with pytest.raises(NotFoundOnServerError, match="answered 404"):
        wait("missing", interval_seconds=0.01, client=client)


def test_runs_come_newest_first_over_several_pages(server, client):
    for number in range(5):
        submit("batch_inference", PARAMETERS, name=f"run {number}", client=client)
    submit("batch_inference", PARAMETERS, name="other", submission=Submission(experiment="nightly"), client=client)
    assert [run.name for run in list_runs(client=client)] == ["other", *(f"run {number}" for number in (4, 3, 2, 1, 0))]
    assert [run.name for run in list_runs(experiment="nightly", client=client)] == ["other"]
    with pytest.raises(NotFoundOnServerError, match="'weekly' cannot be found"):
        list(list_runs(experiment="weekly", client=client))


def test_an_experiment_is_created_once(server, client):
    for _ in range(2):
        submit("batch_inference", PARAMETERS, client=client)
    assert [entry["display_name"] for entry in server.state.experiments.values()] == ["Default"]


def test_an_experiment_that_another_client_has_just_created_is_used(server, client):
    submit("batch_inference", PARAMETERS, client=client)
    server.fail(409, operation="CreateExperiment")
    with pytest.raises(NotFoundOnServerError, match="'nightly' cannot be found"):
        submit("batch_inference", PARAMETERS, submission=Submission(experiment="nightly"), client=client)


def test_a_run_without_an_output_has_no_result(server, client):
    run = submit("batch_inference", PARAMETERS, client=client)
    del server.state.runs[run.run_id]["runtime_config"]["parameters"]["output_uri"]
    with pytest.raises(ConfigurationError, match="does not say where its result is"):
        results(run.run_id, client=client)
    assert get_run(run.run_id, client).parameters.keys() == PARAMETERS.keys() - {"output_uri"}


def test_an_experiment_without_a_name_is_nobody_elses():
    with pytest.raises(ConfigurationError, match="experiment has no name"):
        Submission(experiment="")
