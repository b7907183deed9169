"""Sampling parameters: the run's, a row's own, and the effective ones that the engine gets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from kfp_llm_batch.errors import ConfigurationError

GREEDY_BELOW = 1e-5
"""vLLM takes a lower temperature for zero."""

_WHOLE_DOUBLES = 2**53
_UNUSED_WHEN_GREEDY = ("top_p", "top_k", "min_p", "seed")

_NUMBER = (int, float)
_KINDS: dict[str, tuple[type, ...]] = {
    "max_tokens": (int,),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "n": (int,),
    "seed": (int,),
    "stop": (list,),
    "json_schema": (dict,),
    "top_k": (int,),
    "min_p": _NUMBER,
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "repetition_penalty": _NUMBER,
    "min_tokens": (int,),
    "stop_token_ids": (list,),
    "include_stop_str_in_output": (bool,),
    "ignore_eos": (bool,),
    "skip_special_tokens": (bool,),
    "bad_words": (list,),
    "logprobs": (int,),
}
"""Every sampling parameter that a run or a row may set, and its types."""

_ELEMENTS: dict[str, type] = {"stop": str, "bad_words": str, "stop_token_ids": int}

_BOUNDS: dict[str, tuple[float, float]] = {
    "max_tokens": (1, float("inf")),
    "temperature": (0, 2),
    "top_p": (1e-9, 1),
    "n": (1, 128),
    "seed": (0, 2**63 - 1),
    "min_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "min_tokens": (0, float("inf")),
    "logprobs": (0, 20),
    "top_k": (-1, 2**31 - 1),
    "repetition_penalty": (1e-9, float("inf")),
}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The run's sampling parameters; the model's own `generation_config` sets none of them."""

    max_tokens: int = 256
    temperature: float = 0.0
    """0 is greedy: the likeliest token each time."""
    top_p: float = 1.0
    n: int = 1
    seed: int = 0
    """Start of every row's own seed, see `identity.sample_seed`."""
    stop: tuple[str, ...] = ()
    json_schema: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further sampling parameters by their vLLM names."""

    def __post_init__(self) -> None:
        if self.seed >= _WHOLE_DOUBLES:
            raise ConfigurationError(
                "generation_seed is too large, since KFP carries numbers as doubles",
                received=self.seed,
                allowed=["below 2^53"],
            )
        self.effective(None)

    def effective(self, row_params: Mapping[str, Any] | None) -> dict[str, Any]:
        """The parameters of one row: the run's, overridden by its own, checked, without those that change nothing.

        Raises:
            ConfigurationError: A name is unknown or a value is out of its bounds.
        """
        own = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "n": self.n,
            "seed": self.seed,
            "stop": list(self.stop),
            "json_schema": None if self.json_schema is None else dict(self.json_schema),
        }
        values = {**_given(own), **_given(self.options), **_given(row_params or {})}
        _check(values)
        values = {name: _in_one_form(name, value) for name, value in values.items() if value != []}
        if values["temperature"] < GREEDY_BELOW:
            values = {name: value for name, value in values.items() if name not in _UNUSED_WHEN_GREEDY}
            values["temperature"] = 0.0
        return values


def _given(params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _in_one_form(name: str, value: Any) -> Any:
    return float(value) if _KINDS[name] is _NUMBER else value  # 1 and 1.0 are the same request


def _check(values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in _KINDS:
            raise ConfigurationError("Unknown sampling parameter", received=name, allowed=sorted(_KINDS))
        kinds = _KINDS[name]
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            allowed = [kind.__name__ for kind in kinds]
            raise ConfigurationError(f"Sampling parameter {name} has the wrong type", received=value, allowed=allowed)
        low, high = _BOUNDS.get(name, (float("-inf"), float("inf")))
        if isinstance(value, _NUMBER) and not low <= value <= high:
            raise ConfigurationError(
                f"Sampling parameter {name} is out of bounds", received=value, allowed=[f"{low:g} to {high:g}"]
            )
    for name, kind in _ELEMENTS.items():
        if not all(isinstance(element, kind) and element != "" for element in values.get(name, ())):
            raise ConfigurationError(f"Sampling parameter {name} has an element of no use", received=values[name])
    if values.get("min_tokens", 0) > values["max_tokens"]:
        raise ConfigurationError(
            "min_tokens is above max_tokens", received=f"{values['min_tokens']} and {values['max_tokens']}"
        )
    if values["n"] > 1 and values["temperature"] < GREEDY_BELOW:
        raise ConfigurationError(
            "Several samples of a row are all the same at temperature 0",
            received=f"generation_n={values['n']}",
            remedy="Set generation_temperature above 0, or generation_n to 1.",
        )
    _check_schema(values.get("json_schema"))


def _check_schema(schema: Mapping[str, Any] | None) -> None:
    if schema is None:
        return
    try:
        json.dumps(schema, allow_nan=False)
        jsonschema.Draft202012Validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigurationError(f"The JSON schema for answers is none: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"The JSON schema for answers cannot be used: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def parse_row_params(text: str | None) -> dict[str, Any] | None:
    """The column `params` of one row.

    Raises:
        ConfigurationError: It is not a JSON object.
    """
    if text is None:
        return None
    try:
        params = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"The row's params are not JSON: {error}", received=text[:200]) from error
    if not isinstance(params, dict):
        raise ConfigurationError("The row's params are not a JSON object", received=text[:200])
    return params
