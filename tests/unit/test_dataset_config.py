"""What a DatasetConfig refuses before anything is opened."""

import pytest

from kfp_llm_batch.dataset.config import FORMATS, DatasetConfig
from kfp_llm_batch.errors import ConfigurationError

BAD = {
    "unknown format": ({"format": "jsonlines"}, r"dataset_format is unknown.*'jsonlines'.*Did you mean 'jsonl'"),
    "limit of zero": ({"limit": 0}, r"dataset_limit is not a positive number. Received: 0"),
    "unknown scheme": ({"uri": "ftp://host/a.csv"}, r"'ftp'.*Allowed: file, s3"),
    "empty address": ({"uri": " "}, r"empty"),
    "template and messages": ({"prompt_messages_column": "m"}, r"both given. Give exactly one"),
    "template for openai": ({"format": "openai"}, r"bring their own messages"),
    "blank template": ({"prompt_template": " \n"}, r"prompt_template is empty"),
    "configuration of a file": ({"config": "main"}, r"dataset_config applies to datasets of the hub alone"),
    "revision of a file": ({"revision": "v1"}, r"dataset_revision applies to datasets of the hub alone"),
    "format of a hub dataset": ({"uri": "hf://acme/faq", "format": "csv"}, r"does not apply.*Received: 'csv'"),
    "half an example": ({"prompt_examples": [{"user": "a"}]}, r"example 1 is not a pair"),
    "example with a number": ({"prompt_examples": [{"user": "a", "assistant": 1}]}, r"example 1 is not a pair"),
    "example is a number": ({"prompt_examples": [1]}, r"example 1 is not a pair of texts. Received: 1\. "),
    "example is a text": ({"prompt_examples": ["user"]}, r"example 1 is not a pair of texts. Received: 'user'"),
    "example is null": ({"prompt_examples": [None]}, r"example 1 is not a pair of texts. Received: None"),
    "surrogate in system": ({"prompt_system": "a\ud800"}, r"prompt_system holds a NUL or half of a surrogate pair"),
    "NUL in template": ({"prompt_template": "a\0"}, r"prompt_template holds a NUL"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_parameters_are_refused_at_once(change, message):
    with pytest.raises(ConfigurationError, match=message):
        DatasetConfig(**{"uri": "data.jsonl", "prompt_template": "{{ q }}"} | change)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_accepted(name):
    assert DatasetConfig(uri="data", format=name).format == name
