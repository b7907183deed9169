"""Batch LLM inference on CPU as Kubeflow Pipelines components."""

from importlib.metadata import version

__version__ = version("kfp-llm-batch")
