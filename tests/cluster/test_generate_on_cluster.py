"""The Indexed Job from its manifest to its end, against a server that follows Kubernetes' protocol."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from kfp import dsl
from kfp_llm_batch.components import generate_on_cluster as component

from kfp_llm_batch.cluster import running
from kfp_llm_batch.cluster.manifest import PodConfig, job_name, render_job
from kfp_llm_batch.cluster.pod import INDEX_VARIABLE, answer_index
from kfp_llm_batch.cluster.pod import main as pod_main
from kfp_llm_batch.cluster.running import generate_on_cluster
from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.errors import ConfigurationError, IncompleteRunError, InterruptedRunError, ServerError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.sharding.answering import answer_in_turn
from kfp_llm_batch.sharding.job import JobAddress, JobFolder
from kfp_llm_batch.sharding.merging import merge_shards
from kfp_llm_batch.sharding.preparing import JobConfig, prepare_job
from kfp_llm_batch.sharding.sizing import ShardingConfig
from kfp_llm_batch.storage.object_store import open_store
from tests.cluster.api_server import EVICTED, ApiServer

SHARDS = 4
PODS = PodConfig(parallelism=2, image="image:1", storage_secret_name="secret", storage_endpoint="http://store:9000")


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(running, "WATCH_SECONDS", 1)
    server = ApiServer()
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def job(tmp_path) -> JobAddress:
    dataset = tmp_path / "rows.jsonl"
    dataset.write_text("".join(json.dumps({"question": f"question {index}"}) + "\n" for index in range(20)))
    config = JobConfig(
        dataset=DatasetConfig(uri=str(dataset), prompt_template="{{ question }}"),
        generation=GenerationConfig(model_uri="echo://", output_uri=str(tmp_path / "output")),
        sharding=ShardingConfig(num_shards=str(SHARDS)),
    )
    return prepare_job(config)[0]


VARIANTS = {
    "plain": PodConfig(parallelism=100, image="image:1"),
    "secret": PODS,
    "everything": PodConfig(
        parallelism=3,
        image="image:1",
        cpu="1500m",
        memory="3Gi",
        attempts=1,
        storage_secret_name="secret",
        storage_endpoint="http://store:9000",
        service_account="runs",
        node_selector={"pool": "cpu"},
        tolerations=({"key": "batch", "operator": "Exists"},),
        queue_name="nightly",
    ),
}


@pytest.mark.parametrize("version", ["1.31", "1.34"])
@pytest.mark.parametrize("pods", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_manifest_is_what_kubernetes_allows(pods, version):
    address = JobAddress.parse("s3://results/first/shards/0123456789abcdef")
    kubernetes_validate.validate(render_job(address, 1_000, pods), version, strict=True)


def test_what_the_manifest_says():
    address = JobAddress.parse("s3://results/first/shards/0123456789abcdef")
    manifest = render_job(address, 64, VARIANTS["everything"])
    spec = manifest["spec"]
    pod, (container,) = spec["template"]["spec"], spec["template"]["spec"]["containers"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 64, 3)
    assert (spec["backoffLimitPerIndex"], spec["suspend"], pod["restartPolicy"]) == (0, True, "Never")
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "nightly"
    assert container["command"][-1] == "s3://results/first/shards/0123456789abcdef"
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "1500m", "memory": "3Gi"}
    assert all(entry["valueFrom"]["secretKeyRef"]["optional"] for entry in container["env"] if "valueFrom" in entry)
    assert render_job(address, 2, PODS)["spec"]["parallelism"] == 2
    with pytest.raises(ConfigurationError, match="shard_parallelism is no positive number"):
        PodConfig(parallelism=0, image="image:1")


def answer(address: JobAddress) -> Any:
    """What the cluster's pods do, without their processes."""
    return lambda index: answer_in_turn(JobAddress.parse(address.with_shards([index])), None)


def test_a_cluster_with_evictions_and_failures_ends_in_an_exact_result(server, job):
    server.work = answer(job)
    server.outcomes |= {0: [EVICTED] * 5, 2: [137, 6, 5], 3: [6]}
    assert generate_on_cluster(job, PODS) == {"succeeded": SHARDS, "failed": 0}
    assert merge_shards(job).rows_out == 20
    assert audit_result(job.output_uri).problems == ()
    before = len(server.requests)
    assert generate_on_cluster(job, PODS) == {"succeeded": 0, "failed": 0}
    assert len(server.requests) == before


def test_a_control_plane_that_stumbles_is_asked_again(server, job):
    server.work = answer(job)
    server.faults = [500, "drop", 429]
    timer = threading.Timer(0.05, server.faults.extend, (["drop", 410, 503],))
    timer.start()
    assert generate_on_cluster(job, PODS)["succeeded"] == SHARDS
    timer.join()
    assert len([request for request in server.requests if request.startswith("POST")]) >= 4


def test_a_shard_that_fails_too_often_is_left_to_the_merge(server, job):
    server.work = answer(job)
    server.outcomes[1] = [137, 137, 137]
    assert generate_on_cluster(job, PODS) == {"succeeded": SHARDS - 1, "failed": 1}
    with pytest.raises(IncompleteRunError, match=r"1 of 4 shards have no answers.*: shard 1 of"):
        merge_shards(job)
    # The same step again finds the ended Job in its way, and makes another.
    assert generate_on_cluster(job, PODS)["succeeded"] == SHARDS
    assert merge_shards(job).rows_out == 20


def test_a_mistake_ends_the_job_and_is_told(server, job):
    JobFolder(open_store(job.uri)).save_failure(1, "ConfigurationError: There is no model at this path.")
    server.outcomes[1] = [2]
    with pytest.raises(ConfigurationError, match="There is no model at this path"):
        generate_on_cluster(job, PODS)


def test_a_step_that_was_started_again_goes_on_with_its_job(server, job, caplog):
    server.work = answer(job)
    server.is_held = True
    server.create(render_job(job, SHARDS, PODS))
    threading.Timer(0.3, setattr, (server, "is_held", False)).start()
    with caplog.at_level("INFO", "kfp_llm_batch"):
        assert generate_on_cluster(job, PODS)["succeeded"] == SHARDS
    assert "is there already; this step goes on with it" in caplog.text
    assert "4 of 4 shards are answered" in caplog.text


@pytest.mark.parametrize("faults", [[], [503] * 4])
def test_a_cancelled_step_removes_its_job(server, job, faults):
    server.is_held = True

    def cancel() -> None:
        server.faults = list(faults)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.5, cancel).start()
    with pytest.raises(InterruptedRunError):
        generate_on_cluster(job, PODS)
    assert server.jobs == {}
    (deleted,) = server.deleted
    assert deleted["name"] == job_name(job)
    assert "Foreground" in json.dumps(deleted)


@pytest.mark.parametrize(
    ("status", "message"), [(403, "Give the service account of the pod"), (422, "Kubernetes does not take")]
)
def test_a_refusal_is_one_clear_message(server, job, status, message):
    server.faults = [status]
    with pytest.raises(ServerError, match=message):
        generate_on_cluster(job, PODS)


def test_without_a_cluster(job, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="There is no cluster"):
        generate_on_cluster(job, PODS)


def test_the_component(server, job):
    server.work = answer(job)
    metrics = dsl.Metrics()
    assert component.python_func(metrics=metrics, job_uri=job.uri, shard_parallelism=3) == job.uri
    assert metrics.metadata["shards_succeeded"] == SHARDS
    (created,) = server.jobs.values()
    assert created["spec"]["parallelism"] == 3


def test_a_pod_answers_the_shard_of_its_index(job, monkeypatch):
    monkeypatch.setattr("sys.argv", ["pod", job.uri])
    monkeypatch.setenv(INDEX_VARIABLE, "2")
    pod_main()
    assert JobFolder(open_store(job.uri)).manifest(2) is not None


def test_a_pod_that_meets_a_mistake_leaves_word(job):
    Path(job.uri, "prompts/00001.arrow").write_bytes(b"damaged")
    with pytest.raises(Exception, match="The prompts of shard 1 are not what the job says"):
        answer_index(job, 1)
    assert "DataError: The prompts of shard 1" in str(JobFolder(open_store(job.uri)).failure(1))
