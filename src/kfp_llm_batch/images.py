"""Image references: the tag is the package's version, so that a compiled pipeline runs the code it was written for."""

from kfp_llm_batch import __version__

REGISTRY = "ghcr.io/kfp-llm-batch"
VLLM_CPU_IMAGE = f"{REGISTRY}/vllm-cpu:{__version__}"
"""Every step runs in it, unless `runtime_image` names another."""
DATA_IMAGE = f"{REGISTRY}/data:{__version__}"
"""Without torch: loads, writes, scores and registers pipelines where no engine is needed."""
