"""The KFP face of each step: a signature, a docstring and one call."""

from kfp_llm_batch.components.answer_again import answer_again
from kfp_llm_batch.components.compare_evaluations import compare_evaluations
from kfp_llm_batch.components.enforce_gate import enforce_gate
from kfp_llm_batch.components.evaluate_completions import evaluate_completions
from kfp_llm_batch.components.generate_completions import generate_completions
from kfp_llm_batch.components.generate_on_cluster import generate_on_cluster
from kfp_llm_batch.components.generate_shards import generate_shards
from kfp_llm_batch.components.load_dataset import load_dataset
from kfp_llm_batch.components.merge_shards import merge_shards
from kfp_llm_batch.components.prepare_evaluation import prepare_evaluation
from kfp_llm_batch.components.quantize_model import quantize_model
from kfp_llm_batch.components.split_dataset import split_dataset
from kfp_llm_batch.components.summarize_evaluation import summarize_evaluation
from kfp_llm_batch.components.warm_engine import warm_engine
from kfp_llm_batch.components.warm_shards import warm_shards
from kfp_llm_batch.components.write_results import write_results

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
