import json
from pathlib import Path

import pytest
from kfp import dsl
from kfp_llm_batch.components import generate_completions, load_dataset, write_results

from kfp_llm_batch import errors
from kfp_llm_batch.results.audit import audit_result

ENDPOINT = "KFP_LLM_BATCH_S3_ENDPOINT"


@pytest.fixture(autouse=True)
def _kept_environment(monkeypatch):
    """A component sets the store's endpoint for its whole process."""
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("KFP_LLM_BATCH_S3_ACCESS_KEY", "key")
    monkeypatch.setenv("KFP_LLM_BATCH_S3_SECRET_KEY", "secret")
    monkeypatch.delenv(errors.TERMINATION_LOG_VARIABLE, raising=False)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": "one <b>", "answer": "1"},
        {"question": "two", "answer": "2"},
        {"question": " ", "answer": "3"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path) -> dsl.Dataset:
    return dsl.Dataset(uri=str(tmp_path / "prompts"))


@pytest.fixture
def completions(tmp_path) -> dsl.Dataset:
    return dsl.Dataset(uri=str(tmp_path / "completions"))


def generate(prompts: dsl.Dataset, completions: dsl.Dataset, tmp_path: Path, **parameters):
    metrics, report = dsl.Metrics(), dsl.Markdown(uri=str(tmp_path / "report.md"))
    artifacts = {"prompts": prompts, "completions": completions, "metrics": metrics, "report": report}
    generate_completions.python_func(**artifacts, model_uri="echo://", **parameters)
    return metrics, report


def test_the_three_steps_after_each_other(dataset, prompts, completions, tmp_path):
    load_dataset.python_func(prompts=prompts, dataset_uri=str(dataset), prompt_template="{{ question }}")
    assert prompts.metadata["rows"] == 3
    assert len(prompts.metadata["fingerprint"]) == 64

    metrics, report = generate(prompts, completions, tmp_path)
    assert (metrics.metadata["rows"], metrics.metadata["rows_ok"], metrics.metadata["rows_invalid"]) == (3, 2, 1)
    text = Path(report.path).read_text()
    assert "<b>" not in text
    assert "two" in text
    assert "empty&#95;prompt" in text

    output = str(tmp_path / "output")
    assert write_results.python_func(completions=completions, output_uri=output) == output
    assert audit_result(output).problems == ()


def test_every_parameter_of_the_loading_step_has_its_effect(dataset, prompts):
    load_dataset.python_func(
        prompts=prompts,
        dataset_uri=str(dataset),
        dataset_format="jsonl",
        dataset_limit=2,
        dataset_id_column="answer",
        prompt_template="Q: {{ question }}",
        prompt_system="Be brief.",
        prompt_examples=[{"user": "u", "assistant": "a"}],
    )
    preview = [json.loads(line) for line in Path(prompts.path, "preview.jsonl").read_text().splitlines()]
    assert [row["row_id"] for row in preview] == ["1", "2"]
    assert [(message["role"], message["content"]) for message in preview[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", "u"),
        ("assistant", "a"),
        ("user", "Q: one <b>"),
    ]


def test_every_parameter_of_the_generating_step_reaches_the_manifest(dataset, prompts, completions, tmp_path):
    load_dataset.python_func(prompts=prompts, dataset_uri=str(dataset), prompt_template="{{ question }}")
    generate(
        prompts,
        completions,
        tmp_path,
        generation_max_tokens=7,
        generation_temperature=0.5,
        generation_top_p=0.9,
        generation_n=2,
        generation_seed=11,
        generation_stop=["END"],
        generation_json_schema={"type": "object"},
        generation_options={"top_k": 5},
        engine_device="cpu",
        engine_dtype="float32",
        engine_options={"max_num_seqs": 3},
    )
    manifest = json.loads(Path(completions.path, "manifest.json").read_text())
    assert manifest["sampling"] == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "seed": 11,
        "stop": ["END"],
        "json_schema": {"type": "object"},
        "options": {"top_k": 5},
    }
    arguments = {name: setting["value"] for name, setting in manifest["engine"]["arguments"].items()}
    assert (arguments["dtype"], arguments["max_num_seqs"]) == ("float32", 3)


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_the_written_format(make_result, tmp_path, output_format):
    completions = dsl.Dataset(uri=str(make_result()))
    output = str(tmp_path / "output")
    write_results.python_func(completions=completions, output_uri=output, output_format=output_format)
    assert audit_result(output).ok
    assert json.loads((tmp_path / "output/manifest.json").read_text())["output_format"] == output_format


def test_another_result_is_replaced_only_when_told(make_result, tmp_path, capsys):
    output = str(tmp_path / "output")
    write_results.python_func(completions=dsl.Dataset(uri=str(make_result("one"))), output_uri=output)
    other = dsl.Dataset(uri=str(make_result("two", question="Which")))
    assert exit_code(write_results, completions=other, output_uri=output) == 2
    assert "output_overwrite" in capsys.readouterr().err
    write_results.python_func(completions=other, output_uri=output, output_overwrite=True)
    assert audit_result(output).ok


def exit_code(component, **arguments) -> object:
    with pytest.raises(SystemExit) as ended:
        component.python_func(**arguments)
    return ended.value.code


def message_of(capsys) -> str:
    """The one line of the error, among those of the log."""
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    (line,) = (line for line in captured.err.splitlines() if "Error: " in line)
    return str(line)


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"dataset_uri": "/no/such.jsonl"}, 2, "ConfigurationError: /no/such.jsonl does not exist"),
        (
            {"prompt_template": "{{ qestion }}"},
            2,
            "ConfigurationError: prompt_template uses names that are not columns",
        ),
        ({"dataset_limit": -1}, 2, "ConfigurationError: dataset_limit is not a positive number"),
    ],
    ids=["missing-file", "missing-column", "bad-limit"],
)
def test_a_failing_load_ends_with_its_message_and_exit_code(dataset, prompts, capsys, parameters, code, message):
    arguments = {"dataset_uri": str(dataset), "prompt_template": "{{ question }}", **parameters}
    assert exit_code(load_dataset, prompts=prompts, **arguments) == code
    assert message_of(capsys).startswith(message)


def test_unusable_data_is_a_data_error(tmp_path, prompts, capsys):
    path = tmp_path / "d.jsonl"
    path.write_text('{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}\n')
    arguments = {"dataset_uri": str(path), "dataset_id_column": "id", "prompt_template": "{{ question }}"}
    assert exit_code(load_dataset, prompts=prompts, **arguments) == 3
    assert message_of(capsys).startswith("DataError: Rows 1 and 2 (counted from 1) have the same id")


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"generation_n": 2}, 2, "ConfigurationError: Several samples of a row are all the same at temperature 0"),
        ({"generation_options": {"topk": 1}}, 2, "ConfigurationError: Unknown sampling parameter"),
        ({"engine_device": "cuda"}, 2, "ConfigurationError: The installed vLLM is a CPU build"),
        ({"output_uri": "ftp://host/x"}, 2, "ConfigurationError: The address ftp://host/x has a scheme"),
        ({"output_uri": "s3://results/x"}, 4, "StorageError: Could not write"),
    ],
    ids=["samples", "sampling-name", "device", "scheme", "unreachable-store"],
)
def test_a_failing_generation_ends_before_it_starts(
    make_prompts, completions, tmp_path, capsys, parameters, code, message
):
    prompts = dsl.Dataset(uri=str(make_prompts([{"question": "q"}])))
    with pytest.raises(SystemExit) as ended:
        generate(prompts, completions, tmp_path, **parameters)
    assert ended.value.code == code
    assert message_of(capsys).startswith(message)
    assert not Path(completions.path).exists()


@pytest.mark.parametrize("kind", ["prompts", "completions"])
def test_what_an_earlier_step_did_not_finish_is_refused(tmp_path, capsys, kind):
    unfinished = dsl.Dataset(uri=str(tmp_path))
    if kind == "prompts":
        with pytest.raises(SystemExit) as ended:
            generate(unfinished, dsl.Dataset(uri=str(tmp_path / "c")), tmp_path)
        code: object = ended.value.code
    else:
        code = exit_code(write_results, completions=unfinished, output_uri=str(tmp_path / "output"))
    assert code == 3
    assert message_of(capsys).startswith("DataError: " if kind == "prompts" else "ResultError: ")


@pytest.mark.store
def test_the_endpoint_is_a_parameter(s3_store, s3_uri, make_result, monkeypatch):
    monkeypatch.delenv(ENDPOINT)
    completions = dsl.Dataset(uri=str(make_result()))
    write_results.python_func(completions=completions, output_uri=s3_uri, storage_endpoint=s3_store.endpoint)
    assert audit_result(s3_uri).ok
