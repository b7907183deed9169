"""The compiled pipeline through the command line, as a user runs it: console script, kfp.local, real stores."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.cli.main import main
from kfp_llm_batch.storage.object_store import open_store

COMMAND = str(Path(sys.executable).with_name("kfp-llm-batch"))
PIPELINE = Path(str(files("kfp_llm_batch.pipelines"))) / "batch_inference/pipeline.yaml"
ROWS = [{"id": f"q{index}", "question": f"What is {index}?", "answer": str(index)} for index in range(20)]

Finished = subprocess.CompletedProcess[str]


def command_line(*arguments: str) -> Finished:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=120)


def run(*options: str, **parameters: Any) -> Finished:
    return command_line(*run_arguments(**parameters), *options)


def run_arguments(**parameters: Any) -> list[str]:
    return [
        "run",
        "batch_inference",
        *(part for name, value in parameters.items() for part in ("-p", f"{name}={value}")),
    ]


@pytest.fixture
def call(monkeypatch, capsys) -> Callable[..., Finished]:
    """The command line in this process, where KFP is imported already; the steps are processes as ever."""

    def call(*arguments: str) -> Finished:
        monkeypatch.setattr("sys.argv", [COMMAND, *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Finished(arguments, int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    write_lines(path, ROWS)
    return path


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def echo_job(dataset: Path, output: str | Path, **changes: Any) -> dict[str, Any]:
    job = {"dataset_uri": dataset, "prompt_template": "{{ question }}", "model_uri": "echo://", "output_uri": output}
    return {**job, **changes}


def stored_rows(uri: str, folder: Path) -> list[dict[str, Any]]:
    """All rows of a result, whatever its format."""
    store = open_store(uri)
    rows: list[dict[str, Any]] = []
    for part in json.loads(store.read("manifest.json"))["parts"]:
        path = folder / "part"
        store.download(part["path"], path)
        is_parquet = part["path"].endswith(".parquet")
        rows += pq.read_table(path).to_pylist() if is_parquet else map(json.loads, path.read_text().splitlines())
    return rows


def test_a_run_to_every_kind_of_store(dataset, store_uri, tmp_path):
    finished = run(**echo_job(dataset, store_uri, dataset_id_column="id", dataset_limit=12))
    assert finished.returncode == 0, finished.stderr
    assert "rows:    12 (12 ok)" in finished.stdout
    assert f"result:  {store_uri}" in finished.stdout
    rows = {row["row_id"]: row for row in stored_rows(store_uri, tmp_path)}
    assert [(rows[row["id"]]["question"], rows[row["id"]]["answer"]) for row in ROWS[:12]] == [
        (row["question"], row["answer"]) for row in ROWS[:12]
    ]
    assert all(row["completion"] == row["question"] for row in rows.values())

    verified = command_line("verify", store_uri)
    assert verified.returncode == 0, verified.stderr
    assert "Rows: 12 (12 ok)" in verified.stdout
    assert "The result is whole." in verified.stdout


def test_a_second_run_reuses_the_result_in_another_format(call, dataset, tmp_path):
    job = echo_job(dataset, tmp_path / "output", output_format="openai")
    for log in ("20 of 20 rows", "nothing is generated"):
        finished = call(*run_arguments(**job))
        assert finished.returncode == 0, finished.stderr
        assert log in finished.stderr
        assert call("verify", str(tmp_path / "output")).returncode == 0
    rows = stored_rows(str(tmp_path / "output"), tmp_path)
    answers = [row["response"]["body"]["choices"][0]["message"]["content"] for row in rows]
    assert sorted(answers) == sorted(row["question"] for row in ROWS)


def test_an_empty_dataset_gives_an_empty_verified_result(call, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    finished = call(*run_arguments(**echo_job(tmp_path / "empty.jsonl", tmp_path / "output")))
    assert finished.returncode == 0, finished.stderr
    assert "rows:    0 (none)" in finished.stdout
    assert call("verify", str(tmp_path / "output")).returncode == 0


TEXTS = {
    "python": "Use python3, not python3.11 or /usr/bin/python3.",
    "quotes": """It's "quoted" with `ticks`, $HOME, $(id) and \\ backslashes""",
    "placeholders": "Fill in {{ $ }}, {{channel}}, ${x} and {{question}}",
    "lines": "one\n\ttwo\u2028three ü 你好",
}


def test_texts_with_a_meaning_elsewhere_survive(call, dataset, tmp_path):
    """Through a file of parameters, kept prompts included; kfp.local itself replaces some of these texts."""
    examples = [{"user": text, "assistant": text} for text in TEXTS.values()]
    changes = {"prompt_system": "\n".join(TEXTS.values()), "prompt_examples": examples, "dataset_limit": 1}
    parameters = tmp_path / "parameters.json"
    parameters.write_text(json.dumps(echo_job(dataset, tmp_path / "output", **changes), default=str))
    finished = call("run", "batch_inference", "--params", str(parameters), "--keep", str(tmp_path / "kept"))
    assert finished.returncode == 0, finished.stderr
    (preview,) = (tmp_path / "kept").glob("**/preview.jsonl")
    contents = [message["content"] for message in json.loads(preview.read_text())["messages"]]
    assert contents[0] == "\n".join(TEXTS.values())
    assert contents[1:-1] == [text for text in TEXTS.values() for _ in range(2)]
    kept = {path.name for path in (tmp_path / "kept").glob("**/*") if path.is_file()}
    assert {"manifest.json", "part-00000.parquet", "report"} <= kept


DIRECT = """
import sys
from kfp import components, local

local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2])
pipeline = components.load_component_from_file(sys.argv[1])
task = pipeline(
    dataset_uri=sys.argv[3], prompt_template="{{ question }}", model_uri="echo://", output_uri=sys.argv[4]
)
assert task.output == sys.argv[4], task.output
"""


def test_the_shipped_file_runs_without_our_command_line(dataset, tmp_path):
    command = [
        sys.executable,
        "-c",
        DIRECT,
        str(PIPELINE),
        str(tmp_path / "root"),
        str(dataset),
        str(tmp_path / "output"),
    ]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert len(stored_rows(str(tmp_path / "output"), tmp_path)) == 20


def assert_one_message(finished: Finished, code: int, message: str) -> None:
    output = finished.stdout + finished.stderr
    assert finished.returncode == code, output
    assert "Traceback" not in output
    errors = [line for line in output.splitlines() if re.match(r"(\S+ )?\w*(Error|Exception)\b", line)]
    assert len(errors) == 1, output
    assert re.match(message, errors[0]), errors[0]
    assert finished.stderr.splitlines()[-1] == errors[0]


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"dataset_uri": "missing.jsonl"}, 2, "ConfigurationError: missing.jsonl does not exist"),
        ({"prompt_template": "{{ qestion }}"}, 2, "ConfigurationError: prompt_template uses.*Did you mean 'question'"),
        ({"datset_limit": 5}, 2, "ConfigurationError: .*no such parameter.*Did you mean 'dataset_limit'"),
        ({"dataset_limit": "many"}, 2, "ConfigurationError: Parameter dataset_limit has the wrong type"),
        ({"dataset_id_column": "twice"}, 3, "DataError: Rows 1 and 2 .* have the same id in column 'twice'"),
        ({"dataset_uri": "ftp://host/d.jsonl"}, 2, "ConfigurationError: The address ftp://host/d.jsonl has a scheme"),
        ({"output_uri": "ftp://host/d"}, 2, "ConfigurationError: The address ftp://host/d has a scheme"),
        ({"model_uri": "ftp://host/m"}, 2, "ConfigurationError: The address ftp://host/m has a scheme"),
        ({"dataset_format": "xlsx"}, 2, "ConfigurationError: dataset_format is unknown"),
        ({"output_format": "xlsx"}, 2, "ConfigurationError: output_format is unknown"),
        ({"model_uri": "weightless"}, 2, r"ConfigurationError: The model's folder holds no weights \(\*.safetensors\)"),
        ({"model_uri": "pickled"}, 2, r"ConfigurationError: The model has pickle weights only \(pytorch_model.bin\)"),
        (
            {"output_uri": "questions.jsonl"},
            4,
            "StorageError: Could not write .*A file stands where a folder should be",
        ),
        ({"output_uri": "/proc/results"}, 4, "StorageError: Could not write /proc/results"),
        ({"prompt_system": "Fill in {{$}}."}, 2, "ConfigurationError: Parameter prompt_system holds a placeholder"),
        ({"generation_n": 2}, 2, "ConfigurationError: Several samples of a row are all the same at temperature 0"),
    ],
    ids=[
        "missing-file",
        "missing-column",
        "unknown-parameter",
        "wrong-type",
        "duplicate-ids",
        "dataset-scheme",
        "output-scheme",
        "model-scheme",
        "dataset-format",
        "output-format",
        "model-without-weights",
        "model-with-pickle-weights",
        "output-is-a-file",
        "output-cannot-be-made",
        "placeholder-of-kubeflow",
        "samples-without-temperature",
    ],
)
def test_bad_input_is_one_clear_message(call, tmp_path, monkeypatch, changes, code, message):
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "questions.jsonl", [{"question": "a", "twice": 1}, {"question": "b", "twice": 1}])
    for name, weights in {"weightless": "notes.txt", "pickled": "pytorch_model.bin"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / weights).touch()
    started = time.monotonic()
    finished = call(*run_arguments(**echo_job(Path("questions.jsonl"), "output", **changes)))
    assert time.monotonic() - started < 20
    assert_one_message(finished, code, message)
    assert not (tmp_path / "output/manifest.json").exists()


@pytest.mark.store
@pytest.mark.parametrize(
    ("environment", "bucket", "message"),
    [
        ({"ENDPOINT": "http://127.0.0.1:9"}, "results", r"StorageError: .*http://127.0.0.1:9 did not answer"),
        ({"SECRET_KEY": "wrong-secret"}, "results", "StorageError: .*finds the secret key wrong"),
        ({"ACCESS_KEY": "nobody"}, "results", "StorageError: .*does not know the access key"),
        ({}, "no-such-bucket", "StorageError: .*has no such bucket"),
    ],
    ids=["unreachable", "wrong-secret", "wrong-access-key", "missing-bucket"],
)
def test_a_store_that_refuses_is_one_clear_message(call, dataset, s3_uri, monkeypatch, environment, bucket, message):
    for name, value in environment.items():
        monkeypatch.setenv(f"KFP_LLM_BATCH_S3_{name}", value)
    started = time.monotonic()
    finished = call(*run_arguments(**echo_job(dataset, s3_uri.replace("results", bucket, 1))))
    assert time.monotonic() - started < 20
    assert_one_message(finished, 4, message)
    assert "wrong-secret" not in finished.stdout + finished.stderr


@pytest.mark.store
def test_a_missing_bucket_of_google_is_one_clear_message(dataset, gs_uri):
    finished = run(**echo_job(dataset, gs_uri.replace("results", "no-such-bucket", 1)))
    assert_one_message(finished, 4, "StorageError: .*has no such bucket")


def test_another_result_at_the_output_is_refused_and_replaced_when_told(call, dataset, tmp_path):
    output = tmp_path / "output"
    assert call(*run_arguments(**echo_job(dataset, output))).returncode == 0
    before = {path: path.read_bytes() for path in output.glob("**/*") if path.is_file()}
    other = run_arguments(**echo_job(dataset, output, generation_max_tokens=3))
    assert_one_message(call(*other), 2, "ConfigurationError: Another result stands.*20 rows")
    assert {path: path.read_bytes() for path in output.glob("**/*") if path.is_file()} == before
    assert call(*other, "-p", "output_overwrite=true").returncode == 0
    assert {row["status"] for row in stored_rows(str(output), tmp_path)} == {"truncated"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    write_lines(folder / "questions.jsonl", ROWS)
    assert run(**echo_job(folder / "questions.jsonl", folder / "output")).returncode == 0
    return folder / "output"


def flip_a_byte(part: Path) -> None:
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)


def delete(part: Path) -> None:
    part.unlink()


def add_a_row(part: Path) -> None:
    table = pq.read_table(part)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), part)


@pytest.mark.parametrize("damage", [flip_a_byte, delete, add_a_row], ids=lambda function: function.__name__)
def test_verify_names_the_part_that_was_changed(call, published, tmp_path, damage):
    output = tmp_path / "output"
    shutil.copytree(published, output)
    (part,) = (output / "parts").iterdir()
    damage(part)
    finished = call("verify", str(output))
    assert_one_message(finished, 3, "ResultError: The result is not what its manifest says")
    assert f"parts/{part.name}" in finished.stdout


def test_verify_without_a_result(tmp_path):
    assert_one_message(command_line("verify", str(tmp_path)), 3, "ResultError: There is no result at")


def test_verify_against_a_dataset(call, published, tmp_path):
    dataset = published.parent / "questions.jsonl"
    finished = call("verify", str(published), "--dataset", str(dataset))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "The result holds exactly the rows of the dataset." in finished.stdout

    write_lines(tmp_path / "changed.jsonl", [ROWS[0] | {"answer": "else"}, *ROWS[1:]])
    finished = call("verify", str(published), "--dataset", str(tmp_path / "changed.jsonl"))
    assert_one_message(finished, 3, "ResultError: The result does not hold exactly the rows of the dataset")
    assert "- row '0': column answer differs" in finished.stdout

    finished = call("verify", str(published), "--dataset", str(tmp_path / "missing.jsonl"))
    assert_one_message(finished, 2, "ConfigurationError: .*missing.jsonl does not exist")
