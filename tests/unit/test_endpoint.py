"""Generation through an endpoint: a real server over HTTP, and everything that it may do wrong."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.engine import endpoint
from kfp_llm_batch.engine.echo import END_OF_PROMPT, END_OF_ROLE, START_OF_MESSAGE
from kfp_llm_batch.engine.messages import EngineSpecification, FinishedRequest, GenerationRequest
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from tests.unit.completions_server import CompletionsServer


@pytest.fixture
def server() -> Iterator[CompletionsServer]:
    with CompletionsServer() as running:
        yield running


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"{index:03d}", "question": f"question {index:03d}"} for index in range(count)]


def run(server: CompletionsServer, prompts: Path, folder: Path, **changes: Any) -> ResultManifest:
    options = {"url": server.url, **changes.pop("engine_options", {})}
    return generate(GenerationConfig(model_uri="echo://", engine_options=options, **changes), prompts, folder)


def rows_of(folder: Path, manifest: ResultManifest) -> list[dict[str, Any]]:
    tables = [pq.read_table(folder / part.path) for part in manifest.parts]
    rows: list[dict[str, Any]] = pa.concat_tables(tables).sort_by("row_id").to_pylist()
    return rows


def test_every_row_is_answered(server, make_prompts, tmp_path):
    asked = questions(300)
    server.company_seconds = 30
    manifest = run(server, make_prompts(asked, id_column="id"), tmp_path / "result")
    assert [row["completion"] for row in rows_of(tmp_path / "result", manifest)] == [row["question"] for row in asked]
    assert manifest.rows_by_status == {"ok": 300, "truncated": 0, "invalid": 0, "failed": 0}
    assert audit_result(str(tmp_path / "result")).problems == ()
    assert len(server.bodies) == 300
    assert 1 < server.most_at_once <= endpoint.DEFAULT_IN_FLIGHT


def test_no_more_requests_at_a_time_than_the_user_says(server, make_prompts, tmp_path):
    run(server, make_prompts(questions(40)), tmp_path / "result", engine_options={"max_num_seqs": 3})
    assert server.most_at_once <= 3


def test_a_busy_endpoint_is_waited_for(server, make_prompts, tmp_path):
    server.troubles.extend([(429, {"Retry-After": "1"}), (503, {}), (0, {}), (502, {})])
    started = time.monotonic()
    manifest = run(server, make_prompts(questions(20)), tmp_path / "result")
    assert manifest.rows_by_status["ok"] == 20
    assert time.monotonic() - started > 1


@pytest.mark.parametrize(("status", "times"), [(400, 1), (422, 1), (500, endpoint.FAULTS_PER_REQUEST)])
def test_a_row_that_the_endpoint_refuses_costs_no_other(server, make_prompts, tmp_path, status, times):
    server.faults["question 007"] = (status, {})
    manifest = run(server, make_prompts(questions(20), id_column="id"), tmp_path / "result")
    assert manifest.rows_by_status == {"ok": 19, "truncated": 0, "invalid": 0, "failed": 1}
    (failed,) = (row for row in rows_of(tmp_path / "result", manifest) if row["status"] == "failed")
    assert failed["row_id"] == "007"
    assert failed["error"] == {"code": "engine_refused", "message": f"The endpoint said {status}: as told"}
    assert len(server.bodies) == 19 + times


def test_a_run_that_ended_early_asks_only_for_what_is_missing(server, make_prompts, tmp_path):
    prompts, checkpoint = make_prompts(questions(30)), str(tmp_path / "checkpoint")
    server.answers_left = 12
    with pytest.raises(ConfigurationError, match="The endpoint said 401: as told"):
        run(server, prompts, tmp_path / "first", checkpoint_uri=checkpoint, engine_options={"max_num_seqs": 1})
    with CompletionsServer() as other:
        manifest = run(other, prompts, tmp_path / "second", checkpoint_uri=checkpoint)
        assert manifest.rows_by_status["ok"] == 30
        assert 18 <= len(other.bodies) < 30


def test_answers_of_an_endpoint_are_other_work_than_those_of_an_engine_here(server, make_prompts, tmp_path):
    prompts = make_prompts(questions(1))
    here = generate(GenerationConfig(model_uri="echo://"), prompts, tmp_path / "here")
    there = run(server, prompts, tmp_path / "there")
    assert here.keys_checksum != there.keys_checksum


def test_sampling_goes_along(server, make_prompts, tmp_path):
    schema = {"type": "object"}
    sampling = SamplingConfig(
        max_tokens=5, temperature=0.5, top_p=0.9, n=2, seed=3, stop=("x",), json_schema=schema, options={"top_k": 4}
    )
    manifest = run(server, make_prompts(questions(1)), tmp_path / "result", sampling=sampling)
    first, second = sorted(server.bodies, key=lambda body: int(body["seed"]))
    assert first["seed"] != second["seed"]
    assert {name: first[name] for name in ("model", "max_tokens", "temperature", "top_p", "stop", "top_k")} == {
        "model": "echo",
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "top_k": 4,
    }
    assert first["response_format"]["json_schema"]["schema"] == schema
    assert "n" not in first
    assert manifest.rows_by_status["truncated"] == 1


def engine(url: str, **arguments: Any) -> endpoint.EndpointEngine:
    specification = EngineSpecification(model_path="", arguments={"url": url, "max_num_seqs": 2, **arguments})
    return endpoint.EndpointEngine(specification)


def answers(running: endpoint.EndpointEngine) -> list[FinishedRequest]:
    found = []
    while running.has_unfinished():
        found += running.step()
    return found


def request(text: str, **sampling: Any) -> GenerationRequest:
    token_ids = [START_OF_MESSAGE, *b"user", END_OF_ROLE, *text.encode(), END_OF_PROMPT]
    return GenerationRequest(request_id=1, token_ids=token_ids, sampling={"max_tokens": 50, **sampling})


def test_an_endpoint_that_stays_away_ends_the_run(server, monkeypatch):
    running = engine(server.url)
    monkeypatch.setattr(endpoint, "OUTAGE_SECONDS", 0.0)
    server.troubles.append((503, {}))
    running.add(request("hello"))
    with pytest.raises(ConfigurationError, match=r"did not answer for 0 s: The endpoint said 503: as told.*run again"):
        answers(running)


def test_nobody_answers(monkeypatch):
    with CompletionsServer() as gone:
        url = gone.url
    monkeypatch.setattr(endpoint, "OUTAGE_SECONDS", 0.0)
    with pytest.raises(ConfigurationError, match=r"did not answer for 0 s: ConnectionError"):
        engine(url)


def test_the_key_is_sent_and_the_path_may_be_that_of_the_protocol(server, monkeypatch):
    monkeypatch.setenv(endpoint.KEY_VARIABLE, "secret")
    running = engine(f"{server.url}/v1/")
    running.add(request("hello"))
    (answer,) = answers(running)
    assert answer.output is not None
    assert answer.output.text == "hello"
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_a_model_that_is_not_served(server):
    with pytest.raises(ConfigurationError, match=r"no such model.*'other'.*echo.*served_model_name"):
        engine(server.url, served_model_name="other")


def test_log_probabilities_are_refused(server):
    with pytest.raises(ValueError, match="gives no logprobs by token id"):
        engine(server.url).add(request("hello", logprobs=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "localhost:8080"}, "no address of an endpoint"),
        ({"url": 5}, "no address of an endpoint"),
        ({"url": "http://[::1"}, "no address of an endpoint"),
        ({"url": "http://user:word@host"}, "holds a user, a password"),
        ({"url": "http://word@host"}, "holds a user, a password"),
        ({"url": "http://host/v1?key=word"}, "or a query"),
        ({"url": "http://host", "block_size": 32}, "the engine runs elsewhere.*block_size"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(ConfigurationError, match=message) as raised:
        GenerationConfig(model_uri="echo://", engine_options=options)
    assert "word" not in str(raised.value).replace("password", "")
