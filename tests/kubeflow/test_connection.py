import subprocess
import time

import kfp
import pytest

from kfp_llm_batch.client import connect, connection, list_runs, list_schedules, schedule, submit
from kfp_llm_batch.client.transport import PatientTransport
from kfp_llm_batch.errors import ConfigurationError, ServerError
from tests.kubeflow.server import Fault, KubeflowServer, serving

PARAMETERS = {"dataset_uri": "q.jsonl", "output_uri": "out"}


def test_without_an_address_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    with pytest.raises(ConfigurationError, match="KF_PIPELINES_ENDPOINT"):
        connect()
    with pytest.raises(ConfigurationError, match="needs its http://"):
        connect("kubeflow.example.com")


def test_a_pod_finds_the_server_of_its_cluster(monkeypatch, tmp_path):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT", raising=False)
    monkeypatch.setattr(connection, "_POD_FOLDER", tmp_path)
    assert connection._host("") == "http://ml-pipeline.kubeflow.svc.cluster.local:8888"


def test_the_pods_token_is_sent_and_read_anew_for_each_request(server, monkeypatch, tmp_path):
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    server.token = "first"
    client = connect()
    assert list(list_runs(client=client)) == []
    token.write_text("second")
    server.token = "second"
    assert list(list_runs(client=client)) == []


def test_a_token_that_is_not_accepted_is_explained(server, monkeypatch):
    server.token = "expected"
    with pytest.raises(ServerError, match=r"answered 401 .*PodDefault `access-ml-pipeline`"):
        connect()


def test_session_cookies_are_sent(server, monkeypatch):
    server.cookie = "authservice_session=abc"
    with pytest.raises(ServerError, match="KFP_LLM_BATCH_COOKIES"):
        connect()
    monkeypatch.setenv("KFP_LLM_BATCH_COOKIES", "authservice_session=abc")
    assert list(list_runs(client=connect())) == []


def test_a_login_page_is_not_taken_for_data(server, client):
    server.faults.append(Fault(200, 1, "ListRuns", web_page=True))
    with pytest.raises(ServerError, match="a web page came back"):
        list(list_runs(client=client))


def test_the_namespace_is_sent_wherever_a_server_with_profiles_wants_it(server, monkeypatch):
    server.state.multi_user = True
    client = connect(namespace="team")
    submit("batch_inference", PARAMETERS, client=client)
    schedule("batch_inference", PARAMETERS, cron="0 3 * * *", client=client)
    assert [run.name for run in list_runs(client=client)]
    assert [entry.name for entry in list_schedules(client)] == ["batch-inference"]
    assert {entry["namespace"] for entry in server.state.experiments.values()} == {"team"}


def test_a_pod_of_a_server_with_profiles_uses_its_own(server, monkeypatch, tmp_path):
    namespace = tmp_path / "namespace"
    namespace.write_text("team")
    monkeypatch.setattr(kfp.Client, "_NAMESPACE_PATH", str(namespace))
    server.state.multi_user = True
    assert connect().get_user_namespace() == "team"


def test_a_namespace_of_somebody_else_is_explained(server):
    server.state.multi_user = True
    client = connect(namespace="somebody-else")
    with pytest.raises(ServerError, match=r"answered 403 .*KFP_LLM_BATCH_NAMESPACE"):
        submit("batch_inference", PARAMETERS, client=client)


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_for_a_moment_is_asked_again(status, server, client):
    server.fail(status, times=2, operation="ListRuns")
    assert list(list_runs(client=client)) == []
    assert server.faults[0].times == 0


def test_what_was_turned_away_is_sent_again_but_never_twice(server, client):
    submit("batch_inference", PARAMETERS, client=client)
    server.fail(429, operation="CreateRun")
    submit("batch_inference", PARAMETERS, client=client)
    server.fail(503, operation="CreateRun")
    with pytest.raises(ServerError, match=r"answered 503 .*See with `kfp-llm-batch runs` what arrived"):
        submit("batch_inference", PARAMETERS, client=client)
    assert len(server.state.runs) == 2


def test_a_server_that_does_not_answer_in_time_is_given_up(server, client):
    api = client._run_api.api_client
    api.rest_client = PatientTransport(client._existing_config, read_seconds=0.1)
    server.faults.append(Fault(0, 5, "ListRuns", seconds=0.4))
    started = time.monotonic()
    with pytest.raises(ServerError, match="timed out"):
        list(list_runs(client=client))
    assert time.monotonic() - started < 5


def test_a_slow_server_is_waited_for(server, client):
    server.faults.append(Fault(0, 1, "ListRuns", seconds=0.3))
    assert list(list_runs(client=client)) == []


def test_a_server_that_is_not_there_is_explained(monkeypatch):
    with pytest.raises(ServerError, match=r"No connection .*Check the address"):
        connect("http://127.0.0.1:9")


def test_certificates_are_checked(monkeypatch, tmp_path):
    certificate = tmp_path / "certificate.pem"
    options = "-x509 -newkey rsa:2048 -nodes -subj /CN=test -addext subjectAltName=IP:127.0.0.1 -days 2"
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(certificate)]
    command = ["openssl", "req", *options.split(" "), *files]
    subprocess.run(command, check=True, capture_output=True)
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + (tmp_path / "key.pem").read_text())
    with serving(KubeflowServer(), both) as server:
        with pytest.raises(ServerError, match="CERTIFICATE_VERIFY_FAILED"):
            connect(server.host)
        monkeypatch.setenv("KFP_LLM_BATCH_CA_CERTIFICATE", str(certificate))
        assert list(list_runs(client=connect(server.host))) == []


def test_kfps_own_client_will_do(server):
    with pytest.warns(FutureWarning):
        client = kfp.Client(host=server.host)
    assert submit("batch_inference", PARAMETERS, client=client).run_id in server.state.runs
