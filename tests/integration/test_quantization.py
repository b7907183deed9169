"""The component on the demo model with real vLLM: one engine for the original, one for the quantized model."""

import json
from pathlib import Path

import pytest
from kfp import dsl
from kfp_llm_batch.components import quantize_model

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.models.quantized_formats import W8A8_INT8
from kfp_llm_batch.models.resolving import resolve_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ROWS = 8
MAX_TOKENS = 8


@pytest.fixture(scope="module")
def quantized(tmp_path_factory) -> tuple[Path, dict[str, float], str]:
    """The published checkpoint, the metrics and the report."""
    folder = tmp_path_factory.mktemp("quantized")
    write_demo_dataset(folder / "d.jsonl")
    load_dataset(DatasetConfig(uri=str(folder / "d.jsonl"), prompt_template="{{ question }}"), folder / "prompts")
    metrics, report = dsl.Metrics(), dsl.Markdown(uri=str(folder / "report.md"))
    quantize_model.python_func(
        prompts=dsl.Dataset(uri=str(folder / "prompts")),
        model=dsl.Model(uri=str(folder / "model")),
        metrics=metrics,
        report=report,
        quantization_scheme="w8a8_int8",
        output_uri=str(folder / "published"),
        evaluation_rows=ROWS,
        evaluation_max_tokens=MAX_TOKENS,
    )
    return folder / "published", metrics.metadata, Path(report.path).read_text()


def test_the_quantized_model_answers_much_like_the_original(quantized):
    _, metrics, _ = quantized
    assert metrics["rows"] == ROWS
    assert metrics["common_prefix_share"] > 0.2
    assert abs(metrics["perplexity_change"]) < 0.25
    # Far above one, as the prompts are no text that the model would write; far below the size of its vocabulary.
    assert 2 < metrics["perplexity_original"] < 500
    assert metrics["tokens_per_second_original"] > 0
    assert metrics["tokens_per_second_quantized"] > 0


def test_its_linear_layers_take_half_the_bytes(quantized):
    folder, metrics, _ = quantized
    # A fifth of the demo model's weights are its embeddings, which stay.
    assert 0.5 < metrics["size_ratio"] < 0.7
    assert (metrics["layers_quantized"], metrics["layers_left"]) == (210, 1)
    assert metrics["weight_bytes_quantized"] == resolve_model(str(folder)).facts.weight_bytes


def test_the_checkpoint_can_be_named_as_a_model(quantized):
    folder, metrics, report = quantized
    assert resolve_model(str(folder)).facts.quantized_formats == (W8A8_INT8,)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["evaluation"]["perplexity_quantized"] == metrics["perplexity_quantized"]
    assert "lm&#95;head" in report
