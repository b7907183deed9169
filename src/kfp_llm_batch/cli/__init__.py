"""The command `kfp-llm-batch`."""

from kfp_llm_batch.cli.main import main

__all__ = ["main"]
