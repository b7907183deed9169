import json

import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.generation.sampling import SamplingConfig, parse_row_params


def test_greedy_drops_what_changes_nothing():
    config = SamplingConfig(temperature=0.0, top_p=0.5, seed=3, options={"top_k": 7})
    assert config.effective(None) == {"max_tokens": 256, "temperature": 0.0, "n": 1}


def test_row_params_win_over_the_run():
    config = SamplingConfig(max_tokens=10, temperature=0.7)
    effective = config.effective({"max_tokens": 20, "seed": 9, "stop": ["END"]})
    assert effective == {"max_tokens": 20, "temperature": 0.7, "top_p": 1.0, "n": 1, "seed": 9, "stop": ["END"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is out of bounds"),
        ({"max_tokens": True}, "max_tokens has the wrong type"),
        ({"temperature": 2.5}, "temperature is out of bounds"),
        ({"temperature": "hot"}, "temperature has the wrong type"),
        ({"n": 2}, "all the same at temperature 0"),
        ({"stop": ("",)}, "stop has an element of no use"),
        ({"options": {"top_kk": 3}}, "Did you mean 'top_k'"),
        ({"options": {"top_k": -5}}, "top_k is out of bounds"),
        ({"options": {"repetition_penalty": 0}}, "repetition_penalty is out of bounds"),
        ({"max_tokens": 5, "options": {"min_tokens": 6}}, "min_tokens is above max_tokens"),
        ({"options": {"stop_token_ids": ["a"]}}, "stop_token_ids has an element of no use"),
        ({"options": {"temperature": []}}, "temperature has the wrong type"),
        ({"json_schema": {"const": float("nan")}}, "cannot be used"),
        ({"seed": 2**53}, "generation_seed is too large"),
        ({"json_schema": {"type": "strange"}}, "JSON schema for answers is none"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_values_are_named(values, message):
    with pytest.raises(ConfigurationError, match=message):
        SamplingConfig(**values)


def test_equal_numbers_are_one_request():
    whole, real = (SamplingConfig().effective({"temperature": one, "top_p": one}) for one in (1, 1.0))
    assert json.dumps(whole) == json.dumps(real)


def test_null_means_not_given():
    assert SamplingConfig(options={"max_tokens": None}).effective({"temperature": None})["max_tokens"] == 256


@pytest.mark.parametrize("text", ["{", "[1]", '"max_tokens"', '{"temperature": NaN}', '{"a":' * 50000])
def test_row_params_must_be_an_object(text):
    with pytest.raises(ConfigurationError, match="params are not"):
        parse_row_params(text)
