import json
import math
from pathlib import Path
from typing import Any

import pytest

from kfp_llm_batch.errors import ConfigurationError, DataError, StorageError
from kfp_llm_batch.models.resolving import Model, resolve_model
from kfp_llm_batch.quantization.comparison import Measurement, compare
from kfp_llm_batch.quantization.config import QuantizationConfig
from kfp_llm_batch.quantization.layers import LayerPlan
from kfp_llm_batch.quantization.publishing import check_output, publish_checkpoint, write_manifest
from kfp_llm_batch.quantization.quantizing import Quantization, quantize
from kfp_llm_batch.quantization.report import markdown_report, metrics
from kfp_llm_batch.storage.object_store import open_store

FACTS = {
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
}
SCHEME = "w8a8_int8"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """The original; its weights are looked at, never loaded."""
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FACTS))
    (folder / "model.safetensors").write_bytes(b"w" * 300)
    return resolve_model(str(folder))


def make_checkpoint(folder: Path, model: Model, weights: bytes = b"v" * 100, scheme: str = SCHEME) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(FACTS))
    (folder / "tokenizer.json").write_text("{}")
    (folder / f"model-{len(weights)}.safetensors").write_bytes(weights)
    plan = LayerPlan(quantized=("layer",) * 14, left={"lm_head": "why"}, group_size=None)
    write_manifest(folder, model, scheme, plan, {"rows": 3.0})
    return folder


def keys(uri: str) -> set[str]:
    return {entry.key for entry in open_store(uri).list()}


def test_a_published_checkpoint_is_a_model_with_its_manifest(model, tmp_path, store_uri):
    folder = make_checkpoint(tmp_path / "made", model)
    check_output(store_uri, model, SCHEME, overwrite=False)
    assert keys(store_uri) == set()
    publish_checkpoint(folder, store_uri, overwrite=False)
    assert keys(store_uri) == {"config.json", "manifest.json", "model-100.safetensors", "tokenizer.json"}
    assert resolve_model(store_uri).digest == resolve_model(str(folder)).digest
    manifest = json.loads(open_store(store_uri).read("manifest.json"))
    assert manifest["source"] == {"uri": model.uri, "revision": None, "digest": model.digest}
    assert (manifest["scheme"], manifest["layers_quantized"], manifest["evaluation"]) == (SCHEME, 14, {"rows": 3.0})


def test_the_same_checkpoint_twice_is_one(model, tmp_path):
    uri = str(tmp_path / "output")
    publish_checkpoint(make_checkpoint(tmp_path / "one", model), uri, overwrite=False)
    written = (tmp_path / "output/model-100.safetensors").stat().st_mtime_ns
    check_output(uri, model, SCHEME, overwrite=False)
    publish_checkpoint(make_checkpoint(tmp_path / "two", model), uri, overwrite=False)
    assert (tmp_path / "output/model-100.safetensors").stat().st_mtime_ns == written


def test_a_checkpoint_that_lost_a_file_is_made_whole(model, tmp_path):
    uri = str(tmp_path / "output")
    publish_checkpoint(make_checkpoint(tmp_path / "one", model), uri, overwrite=False)
    Path(uri, "model-100.safetensors").unlink()
    publish_checkpoint(make_checkpoint(tmp_path / "two", model), uri, overwrite=False)
    assert Path(uri, "model-100.safetensors").exists()


def test_another_checkpoint_is_replaced_only_when_told_and_leaves_nothing(model, tmp_path):
    uri = str(tmp_path / "output")
    publish_checkpoint(make_checkpoint(tmp_path / "one", model), uri, overwrite=False)
    other = make_checkpoint(tmp_path / "two", model, weights=b"u" * 50, scheme="w4a16")
    with pytest.raises(ConfigurationError, match=r"Another quantized checkpoint.*output_overwrite"):
        check_output(uri, model, "w4a16", overwrite=False)
    with pytest.raises(ConfigurationError, match=r"Another quantized checkpoint.*output_overwrite"):
        publish_checkpoint(other, uri, overwrite=False)
    check_output(uri, model, "w4a16", overwrite=True)
    publish_checkpoint(other, uri, overwrite=True)
    assert keys(uri) == {"config.json", "manifest.json", "model-50.safetensors", "tokenizer.json"}


def test_an_upload_that_was_cut_short_is_finished(model, tmp_path):
    uri, folder = str(tmp_path / "output"), make_checkpoint(tmp_path / "made", model)
    open_store(uri).upload(folder / "model-100.safetensors", "model-100.safetensors")
    with pytest.raises(ConfigurationError, match=r"holds no config\.json"):
        resolve_model(uri)
    check_output(uri, model, SCHEME, overwrite=False)
    publish_checkpoint(folder, uri, overwrite=False)
    assert "manifest.json" in keys(uri)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{}"),
        ("manifest.json", '{"keys_checksum": 1}'),
        ("manifest.json", "[]"),
        ("manifest.json", "{"),
        ("manifest.json", "{}"),
        ("manifest.json", ""),
    ],
    ids=["model", "result", "list", "damaged", "empty", "no-bytes"],
)
def test_what_others_wrote_is_never_replaced(model, tmp_path, name, text):
    output = tmp_path / "output"
    output.mkdir()
    (output / name).write_text(text)
    folder = make_checkpoint(tmp_path / "made", model)
    with pytest.raises(ConfigurationError, match="did not write"):
        check_output(str(output), model, SCHEME, overwrite=True)
    with pytest.raises(ConfigurationError, match="did not write"):
        publish_checkpoint(folder, str(output), overwrite=True)
    assert [(path.name, path.read_text()) for path in output.iterdir()] == [(name, text)]


def test_an_output_that_cannot_be_written_is_found_before_the_work(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        check_output(str(tmp_path / "file/output"), model, SCHEME, overwrite=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scheme": "w8a8"}, r"Unknown quantization_scheme.*Allowed: w8a8_int8, w4a16.*Did you mean"),
        ({"evaluation_rows": 0}, "evaluation_rows is out of bounds"),
        ({"evaluation_rows": 10_000}, "evaluation_rows is out of bounds"),
        ({"evaluation_max_tokens": 0}, "evaluation_max_tokens is no positive number"),
    ],
)
def test_the_configuration_checks_itself(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        QuantizationConfig(model_uri="m", **changes)


def test_what_cannot_be_quantized_is_refused_before_the_work(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "q"}])
    with pytest.raises(ConfigurationError, match="no weights to quantize"):
        quantize(QuantizationConfig(model_uri="echo://"), prompts, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_prompts_without_a_usable_row_are_refused_before_the_work(make_prompts, tmp_path):
    prompts = make_prompts([{"question": "word " * 9000}])
    with pytest.raises(DataError, match="No row of the held-out prompts"):
        quantize(QuantizationConfig(model_uri="demo://smollm2-135m-instruct"), prompts, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def measurement(*answers: str, **changes: Any) -> Measurement:
    values: dict[str, Any] = {
        "completion_tokens": 30,
        "seconds": 2.0,
        "prompt_logprob": -20.0,
        "prompt_tokens": 10,
        "weight_bytes": 1000,
    }
    return Measurement(answers=answers, **{**values, **changes})


def test_the_comparison_by_hand():
    original = measurement("abcd", "same", "", "x")
    quantized = measurement(
        "abXY", "same", "", "xyzw", seconds=1.0, prompt_logprob=-30.0, weight_bytes=600, completion_tokens=45
    )
    found = compare(original, quantized)
    assert (found.rows, found.exact_agreement) == (4, 0.5)
    assert found.common_prefix_share == (0.5 + 1 + 1 + 0.25) / 4
    assert found.perplexity_original == pytest.approx(math.exp(2))
    assert found.perplexity_change == pytest.approx(math.e - 1)
    assert (found.size_ratio, found.speed_ratio) == (0.6, 3.0)


def test_numbers_that_are_none_do_not_end_the_comparison():
    broken = measurement("", prompt_logprob=-math.inf, seconds=0.0)
    found = compare(measurement("", prompt_tokens=0, prompt_logprob=0.0, seconds=0.0), broken)
    assert math.isfinite(found.perplexity_quantized)
    assert found.speed_ratio == 0


def outcome(model: Model, left: dict[str, str]) -> Quantization:
    original, quantized = measurement("<b>one</b>", "same"), measurement("two | x", "same", weight_bytes=600)
    return Quantization(
        model=model,
        scheme=SCHEME,
        plan=LayerPlan(quantized=("a", "b"), left=left, group_size=None),
        comparison=compare(original, quantized),
        examples=(("row<1>", "<b>one</b>", "two | x"), ("row2", "same", "same")),
    )


def test_the_report_names_layers_and_answers_and_nothing_acts_as_markup(model):
    left = {"lm_head": "kept", **{f"l.{index}": "odd" for index in range(25)}}
    text = markdown_report(outcome(model, left))
    assert "| same answer, of 2 rows | | 50.0% | |" in text
    assert "-40.0%" in text
    assert "l.19 and 5 more" in text
    assert "row&#60;1&#62; | &#60;b&#62;one&#60;/b&#62; | two &#124; x |" in text
    assert "<b>" not in text
    assert "row2" not in text


def test_metrics_are_finite_numbers(model):
    found = metrics(outcome(model, {"lm_head": "kept"}))
    assert (found["layers_quantized"], found["layers_left"], found["size_ratio"]) == (2, 1, 0.6)
    assert all(isinstance(value, float) and math.isfinite(value) for value in found.values())
