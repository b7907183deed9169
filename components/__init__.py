"""The KFP face of each step: a signature, a docstring and one call."""

from kfp_llm_batch.components.generate_completions import generate_completions
from kfp_llm_batch.components.load_dataset import load_dataset
from kfp_llm_batch.components.quantize_model import quantize_model
from kfp_llm_batch.components.warm_engine import warm_engine
from kfp_llm_batch.components.write_results import write_results

__all__ = ["generate_completions", "load_dataset", "quantize_model", "warm_engine", "write_results"]
