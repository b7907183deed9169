"""What every component does around its one call: logging, storage endpoint, errors as messages."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from typing import Any

from kfp_llm_batch.caches import set_hub_cache
from kfp_llm_batch.errors import exit_with_message


@contextlib.contextmanager
def step(storage_endpoint: str) -> Iterator[None]:
    """Run the body of a component.

    Args:
        storage_endpoint: Address of the S3 store; an empty one leaves it to the environment.

    Raises:
        SystemExit: In place of a BatchError, after its message was printed.
    """
    configure_logging()
    if storage_endpoint:
        os.environ["KFP_LLM_BATCH_S3_ENDPOINT"] = storage_endpoint
    set_hub_cache()
    with exit_with_message():
        yield


def with_whole_numbers(value: Any) -> Any:
    """A JSON value with its whole numbers again, since kfp.local makes floats of all numbers in lists and objects."""
    if isinstance(value, dict):
        return {name: with_whole_numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [with_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def configure_logging() -> None:
    """Lines with time and level on standard error, where a pod's log and a terminal show them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("kfp_llm_batch")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
