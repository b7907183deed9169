"""What every component does around its one call: logging, storage endpoint, errors as messages."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kfp_llm_batch.caches import set_hub_cache
from kfp_llm_batch.errors import exit_with_message

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    _Config = TypeVar("_Config", bound=DataclassInstance)


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


def from_parameters(config: type[_Config], parameters: Mapping[str, Any], *prefixes: str) -> _Config:
    """What a step's parameters say about the fields of a dataclass, which have the same names but for prefixes.

    KFP knows no parameter without a value: an empty text, list or object and 0 are None where that is the default.

    Args:
        config: The dataclass.
        parameters: By name; those of other names are left aside.
        prefixes: Of the parameters, such as `dataset_` for `dataset_uri`, which is the field `uri`.

    Raises:
        ConfigurationError: What the dataclass finds wrong.
    """
    values = {}
    for field in dataclasses.fields(config):
        for name in (field.name, *(prefix + field.name for prefix in prefixes)):
            if name in parameters and (parameters[name] or field.default is not None):
                values[field.name] = _value(parameters[name], field.default)
    return config(**values)


def write_outputs(texts: Mapping[str, str]) -> None:
    """Write what a step gives on, by the paths that KFP names; the folders need not be there."""
    for path, text in texts.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def _value(parameter: Any, default: Any) -> Any:
    value = _with_whole_numbers(parameter) if isinstance(parameter, list | dict) else parameter
    return tuple(value) if isinstance(default, tuple) else value


def _with_whole_numbers(value: Any) -> Any:
    """A JSON value with its whole numbers again, since kfp.local makes floats of all numbers in lists and objects."""
    if isinstance(value, dict):
        return {name: _with_whole_numbers(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_with_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def configure_logging() -> None:
    """Lines with time and level on standard error, where a pod's log and a terminal show them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("kfp_llm_batch")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False
