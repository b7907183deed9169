"""The KFP face of each step: a signature, a docstring and one call."""

from kfp_llm_batch.components.answer_again.component import answer_again
from kfp_llm_batch.components.compare_evaluations.component import compare_evaluations
from kfp_llm_batch.components.enforce_gate.component import enforce_gate
from kfp_llm_batch.components.evaluate_completions.component import evaluate_completions
from kfp_llm_batch.components.generate_completions.component import generate_completions
from kfp_llm_batch.components.generate_on_cluster.component import generate_on_cluster
from kfp_llm_batch.components.generate_shards.component import generate_shards
from kfp_llm_batch.components.load_dataset.component import load_dataset
from kfp_llm_batch.components.merge_shards.component import merge_shards
from kfp_llm_batch.components.prepare_evaluation.component import prepare_evaluation
from kfp_llm_batch.components.quantize_model.component import quantize_model
from kfp_llm_batch.components.split_dataset.component import split_dataset
from kfp_llm_batch.components.summarize_evaluation.component import summarize_evaluation
from kfp_llm_batch.components.warm_engine.component import warm_engine
from kfp_llm_batch.components.warm_shards.component import warm_shards
from kfp_llm_batch.components.write_results.component import write_results

__all__ = [
    "answer_again",
    "compare_evaluations",
    "enforce_gate",
    "evaluate_completions",
    "generate_completions",
    "generate_on_cluster",
    "generate_shards",
    "load_dataset",
    "merge_shards",
    "prepare_evaluation",
    "quantize_model",
    "split_dataset",
    "summarize_evaluation",
    "warm_engine",
    "warm_shards",
    "write_results",
]
