"""The compiled sharded pipeline through the command line and kfp.local."""

import json
from pathlib import Path

import pytest

from kfp_llm_batch.cli.main import main
from kfp_llm_batch.storage.object_store import open_store

ROWS = [{"id": f"q{index}", "question": f"What is {index}? " * (1 + index % 5)} for index in range(40)]


def command_line(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["kfp-llm-batch", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def run_arguments(dataset: Path, output: str, **changes: object) -> list[str]:
    parameters = {
        "dataset_uri": dataset,
        "dataset_id_column": "id",
        "prompt_template": "{{ question }}",
        "model_uri": "echo://",
        "output_uri": output,
        **changes,
    }
    return [
        "run",
        "sharded_batch_inference",
        *(part for pair in parameters.items() for part in ("-p", "=".join(map(str, pair)))),
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.store
def test_four_shards_on_two_pods_are_one_audited_result(dataset, s3_uri, monkeypatch, capsys, tmp_path):
    arguments = run_arguments(dataset, s3_uri, num_shards=4, shard_parallelism=2)
    assert command_line(monkeypatch, *arguments, "--keep", str(tmp_path / "kept")) == 0, capsys.readouterr().err
    assert "rows:    40 (40 ok)" in capsys.readouterr().out
    assert command_line(monkeypatch, "verify", s3_uri, "--dataset", str(dataset)) == 0
    printed = capsys.readouterr().out
    assert "The result is whole." in printed
    assert "The result holds exactly the rows of the dataset." in printed

    store = open_store(s3_uri)
    manifest = json.loads(store.read("manifest.json"))
    assert manifest["dataset"]["shards"] == len(manifest["parts"]) == 4
    assert {entry.key for entry in store.list()} == {"manifest.json", *(part["path"] for part in manifest["parts"])}
    # Nothing but manifests goes through Kubeflow's artifacts.
    kept = {path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()}
    assert not [name for name in kept if name.endswith((".arrow", ".parquet"))]
    pods = [json.loads(path.read_text()) for path in (tmp_path / "kept").glob("*/*/generate-shards/manifests")]
    assert sorted(shard for pod in pods for shard in pod) == ["0", "1", "2", "3"]


def test_a_mistake_is_one_message_before_any_pod_starts(dataset, tmp_path, monkeypatch, capsys):
    arguments = run_arguments(dataset, str(tmp_path / "output"), num_shards="many")
    assert command_line(monkeypatch, *arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("ConfigurationError: num_shards is no number of shards. Received: 'many'.")
