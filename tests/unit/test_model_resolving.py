import json
import subprocess
import sys
from pathlib import Path

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.models.sizes import weight_bytes
from kfp_llm_batch.storage.object_store import open_store

CONFIG = {
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 100,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that counts as a model; its weights are looked at, never loaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    (model / "model.safetensors").write_bytes(b"w" * 300)
    return model


def test_a_folder_as_path_and_as_address(folder):
    model = resolve_model(str(folder))
    assert (model.uri, model.engine, model.folder, model.revision) == (str(folder), "vllm", folder, None)
    assert resolve_model(f"file://{folder}").digest == model.digest


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_that_cannot_be_read_is_named(folder, name):
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "gone")
    with pytest.raises(ConfigurationError, match=rf"cannot be read: No such file.*{name}.*Let the user"):
        resolve_model(str(folder))


def test_a_gguf_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot be read: Is a directory.*model.gguf"):
        resolve_model(str(tmp_path / "model.gguf"))


def test_a_revision_that_nobody_would_look_at_is_refused(folder):
    with pytest.raises(ConfigurationError, match="model_revision applies to models of the hub alone"):
        resolve_model(str(folder), "main")


@pytest.mark.store
def test_the_size_of_a_model_is_that_of_what_is_loaded(s3_uri):
    store = open_store(s3_uri)
    for name in ("model.safetensors", "checkpoint-5/model.safetensors", "consolidated.safetensors"):
        store.write(name, b"weights")
    assert weight_bytes(s3_uri.replace("s3:", "S3:"), None) == len(b"weights")


def test_the_same_weights_in_the_format_of_mistral_are_left_out(folder):
    plain = resolve_model(str(folder))
    (folder / "consolidated.safetensors").write_bytes(b"w" * 400)
    (folder / "consolidated.safetensors.index.json").write_text("{}")
    model = resolve_model(str(folder))
    assert model.facts.weight_bytes == 300
    assert model.digest == plain.digest


@pytest.mark.store
def test_the_same_weights_in_the_format_of_mistral_are_not_fetched(s3_uri, folder):
    store = open_store(s3_uri)
    for path in folder.iterdir():
        store.write(path.name, path.read_bytes())
    store.write("consolidated.safetensors", b"w" * 400)
    names = {path.name for path in resolve_model(s3_uri).folder.iterdir()}
    assert {"config.json", "model.safetensors"} <= names
    assert "consolidated.safetensors" not in names


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"])
def test_the_digest_depends_on_everything_that_changes_answers(folder, name):
    before = resolve_model(str(folder)).digest
    path = folder / name
    path.write_text(json.dumps({**CONFIG, "more": 1}) if name == "config.json" else "other")
    assert resolve_model(str(folder)).digest != before


def test_the_digest_does_not_depend_on_the_place_or_on_other_files(folder, tmp_path):
    before = resolve_model(str(folder)).digest
    (folder / "README.md").write_text("about")
    moved = folder.rename(tmp_path / "moved")
    assert resolve_model(str(moved)).digest == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"kv_bytes_per_token": 2 * 4 * 8 * 8 * 2, "dtype": "bfloat16", "weight_bytes": 300}),
        ({"num_key_value_heads": 2}, {"kv_bytes_per_token": 2 * 4 * 2 * 8 * 2}),
        ({"num_key_value_heads": None}, {"kv_bytes_per_token": 2 * 4 * 8 * 8 * 2}),
        ({"head_dim": 32}, {"kv_bytes_per_token": 2 * 4 * 8 * 32 * 2}),
        ({"torch_dtype": "float32"}, {"kv_bytes_per_token": 2 * 4 * 8 * 8 * 4, "dtype": "float32"}),
        ({"dtype": "float16", "torch_dtype": "float32"}, {"kv_bytes_per_token": 2 * 4 * 8 * 8 * 2, "dtype": "float16"}),
        ({"intermediate_size": None}, {"intermediate_size": 256}),
        ({"text_config": {**CONFIG, "max_position_embeddings": 77}, "hidden_size": 1}, {"max_model_len": 77}),
    ],
    ids=["plain", "grouped-heads", "null-heads", "head-size", "float32", "dtype", "no-intermediate", "text-config"],
)
def test_facts_come_from_the_configuration(folder, changes, expected):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    facts = resolve_model(str(folder)).facts
    assert {name: getattr(facts, name) for name in expected} == expected
    assert (facts.vocab_size, facts.hidden_size) == (1000, 64)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        json.dumps({name: value for name, value in CONFIG.items() if name != "max_position_embeddings"}),
        json.dumps({**CONFIG, "num_attention_heads": "8"}),
        json.dumps({**CONFIG, "num_attention_heads": 0}),
        json.dumps({**CONFIG, "text_config": None}),
    ],
    ids=["cut", "list", "null", "no-length", "text", "no-heads", "no-text-config"],
)
def test_a_strange_configuration_is_named(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match="not that of a text generation model"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("demo://smollm2-135m-instuct", r"Unknown demo model.*Did you mean 'smollm2-135m-instruct'"),
        ("ftp://host/model", r"Received: 'ftp'. Allowed: .*echo"),
        ("hf://", "names nothing after its scheme"),
        ("", "An address is empty"),
        ("/no/such/model", "There is no model at this path"),
        ("/no/such/model.gguf", "There is no model at this path"),
    ],
    ids=["demo", "scheme", "hub-without-name", "empty", "folder", "gguf"],
)
def test_addresses_without_a_model(uri, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve_model(uri)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no config.json"),
        ({"model.safetensors": "w"}, "holds no config.json"),
        ({"config.json": "{}"}, r"holds no weights \(\*.safetensors\)"),
        ({"config.json": "{}", "consolidated.safetensors": "w"}, r"holds no weights \(\*.safetensors\)"),
        ({"config.json": "{}", "pytorch_model.bin": "w"}, r"pickle weights only \(pytorch_model.bin\).*any code"),
        (
            {"config.json": "{}", "a.pt": "w", "b.ckpt": "w", "c.pth": "w"},
            r"pickle weights only \(a.pt, b.ckpt, c.pth\)",
        ),
    ],
    ids=["empty", "no-config", "no-weights", "mistral-format", "pickle", "several-pickles"],
)
def test_folders_that_cannot_be_served(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        resolve_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_is_no_gguf_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "damaged.gguf").write_bytes(b"GGUF damaged")
    with pytest.raises(ConfigurationError, match=r"GGUF file cannot be converted.*damaged.gguf"):
        resolve_model(str(tmp_path / "damaged.gguf"))
    assert [path.name for path in (tmp_path / "cache/models").iterdir() if path.is_dir()] == []


def test_a_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(ConfigurationError, match=r"holds no config\.json"):
        resolve_model(str(tmp_path / "weights.safetensors"))


def test_the_echo_model_needs_nothing():
    model = resolve_model("echo://")
    assert (model.engine, model.digest, model.facts.weight_bytes) == ("echo", "echo", 0)


@pytest.mark.store
@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_model_in_a_store_is_fetched_once_and_again_when_it_changes(request, folder, tmp_path, kind):
    uri = f"{request.getfixturevalue(f'{kind}_uri')}/model"
    for path in folder.iterdir():
        open_store(uri).upload(path, path.name)
    model = resolve_model(uri)
    assert model.uri == uri
    assert model.folder.is_relative_to(tmp_path / "cache")
    assert model.digest == resolve_model(str(folder)).digest
    assert resolve_model(uri).folder == model.folder
    open_store(uri).write("model.safetensors", b"v" * 300)
    assert resolve_model(uri).digest != model.digest


@pytest.mark.store
def test_an_empty_folder_of_a_store_is_no_model(s3_uri):
    with pytest.raises(ConfigurationError, match=r"holds no config\.json"):
        resolve_model(f"{s3_uri}/model")


RESOLVE = """
import json, sys
from kfp_llm_batch.errors import exit_with_message
from kfp_llm_batch.models.resolving import resolve_model

with exit_with_message():
    model = resolve_model(sys.argv[1], sys.argv[2] or None)
    print(json.dumps([str(model.folder), model.revision, model.uri]))
"""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch) -> Path:
    """A local cache of the hub with one model, and no network."""
    repository = tmp_path / "hub/hub/models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / COMMIT)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return repository / "snapshots" / COMMIT


def resolve_in_process(uri: str, revision: str = "") -> subprocess.CompletedProcess[str]:
    """The hub's client reads its settings when it is imported, so each case needs a process of its own."""
    return subprocess.run([sys.executable, "-c", RESOLVE, uri, revision], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("revision", ["", "main", COMMIT], ids=["newest", "branch", "commit"])
def test_a_hub_model_from_the_local_cache(hub, revision):
    finished = resolve_in_process("hf://org/name", revision)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [str(hub), COMMIT, "hf://org/name"]


@pytest.mark.parametrize(
    ("uri", "revision", "code", "message"),
    [
        (
            "hf://org/other",
            "",
            4,
            "StorageError: The hub cannot be reached and its local cache does not hold the model",
        ),
        (
            "hf://org/name",
            "v9",
            4,
            "StorageError: The hub cannot be reached and its local cache does not hold the model",
        ),
        ("hf://org/name/more", "", 2, "ConfigurationError: Not a model's name on the hub"),
    ],
    ids=["unknown", "unknown-revision", "bad-name"],
)
def test_a_hub_model_that_is_not_there(hub, uri, revision, code, message):
    finished = resolve_in_process(uri, revision)
    assert finished.returncode == code
    assert finished.stderr.startswith(message)
    assert "Traceback" not in finished.stderr


def test_an_unreachable_hub(hub, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    finished = resolve_in_process("hf://org/other")
    assert finished.returncode == 4
    assert "StorageError: The hub cannot be reached" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.store
def test_pickle_weights_in_a_store_are_refused_before_they_are_fetched(s3_uri, tmp_path, monkeypatch):
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))
    store = open_store(f"{s3_uri}/model")
    store.write("config.json", b"{}")
    store.write("pytorch_model.bin", b"pickle")
    with pytest.raises(ConfigurationError, match=r"pickle weights only \(pytorch_model.bin\)"):
        resolve_model(f"{s3_uri}/model")
    assert not list(tmp_path.rglob("*.bin"))
