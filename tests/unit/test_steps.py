import dataclasses
from typing import Any

import pytest
from kfp_llm_batch.components import answer_again, generate_completions, load_dataset, split_dataset

from kfp_llm_batch.dataset.config import DatasetConfig
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.steps import from_parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    uri: str = "nowhere"
    limit: int | None = None
    threshold: float = 0.5
    is_strict: bool = True
    columns: tuple[str, ...] = ("text",)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


def test_fields_take_parameters_by_their_names_with_and_without_a_prefix():
    config = from_parameters(Config, {"dataset_uri": "a.csv", "threshold": 0.1, "other": 1, "columns": []}, "dataset_")
    assert config == Config(uri="a.csv", threshold=0.1, columns=())


@pytest.mark.parametrize("nothing", ["", 0, [], {}])
def test_nothing_given_is_none_where_that_is_the_default(nothing):
    assert from_parameters(Config, {"limit": nothing}).limit is None


def test_nothing_given_stays_itself_where_it_means_something():
    config = from_parameters(Config, {"uri": "", "threshold": 0, "is_strict": False})
    assert (config.uri, config.threshold, config.is_strict) == ("", 0, False)


def test_whole_numbers_come_back_inside_of_objects_and_others_stay():
    given = {"threshold": 1.0, "options": {"top_k": 20.0, "min_p": 0.5, "list": [1.0, True, None, "1.0"]}}
    config = from_parameters(Config, given)
    assert config.options == {"top_k": 20, "min_p": 0.5, "list": [1, True, None, "1.0"]}
    assert isinstance(config.options["top_k"], int)
    assert config.options["list"][1] is True
    assert isinstance(config.threshold, float)


@pytest.mark.parametrize(
    ("component", "config"),
    [
        (load_dataset, DatasetConfig),
        (split_dataset, DatasetConfig),
        (split_dataset, GenerationConfig),
        (generate_completions, GenerationConfig),
        (answer_again, GenerationConfig),
    ],
)
def test_the_defaults_of_a_step_are_those_of_the_runtime(component, config):
    defaults = {name: entry.default for name, entry in component.component_spec.inputs.items()}
    made = config.from_parameters({**defaults, "dataset_uri": "a.csv", "output_uri": ""})
    required = {"uri": "a.csv"} if config is DatasetConfig else {"model_uri": made.model_uri}
    assert made == config(**required)
