"""An evaluation of the demo model with real vLLM: the same again passes, shorter answers fail, and the rows show."""

from pathlib import Path

import pytest

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.evaluation.comparison import compare_runs
from kfp_llm_batch.evaluation.config import EvaluationConfig
from kfp_llm_batch.evaluation.gate import GateConfig
from kfp_llm_batch.evaluation.report.row_choice import shown_rows
from kfp_llm_batch.evaluation.run_folder import EvaluatedRun
from kfp_llm_batch.evaluation.scoring import evaluate
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig

ROWS = 30
pytestmark = pytest.mark.vllm


def evaluated(folder: Path, name: str, max_tokens: int) -> EvaluatedRun:
    sampling = SamplingConfig(max_tokens=max_tokens)
    config = GenerationConfig(model_uri="demo://smollm2-135m-instruct", sampling=sampling)
    generate(config, folder / "prompts", folder / f"{name}-completions")
    scorers = EvaluationConfig(scorers=["contains", "truncation"], target_column="answer", slice_columns=("shape",))
    evaluate(scorers, folder / f"{name}-completions", folder / name)
    return EvaluatedRun(folder / name)


def test_shorter_answers_fail_the_gate_and_the_rows_that_turned_come_first(tmp_path):
    write_demo_dataset(tmp_path / "questions.jsonl", ROWS)
    uri = str(tmp_path / "questions.jsonl")
    load_dataset(DatasetConfig(uri=uri, id_column="id", prompt_template="{{ question }}"), tmp_path / "prompts")
    baseline, shorter = evaluated(tmp_path, "baseline", 48), evaluated(tmp_path, "shorter", 2)
    comparison = compare_runs(shorter, baseline, GateConfig())
    assert comparison.decision.outcome == "fail"
    assert "max_tokens: 48 before, 2 now" in " ".join(comparison.likeness.differences)
    assert comparison.likeness.rows_compared == ROWS
    rows = shown_rows(shorter, "truncation", comparison, baseline)
    assert rows[0]["turned"]
    assert len(str(rows[0]["before"])) > len(str(rows[0]["answer"]))
    # The row without a question has no answer: it is wrong, and not left out.
    (contains,) = [entry for entry in shorter.manifest.metrics if entry["metric"] == "contains"]
    assert (contains["n_scored"], contains["n_total"]) == (ROWS, ROWS)
