import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.parameters import read_parameters
from kfp_llm_batch.shipped import load_pipeline

REQUIRED = ["dataset_uri=d.jsonl", "output_uri=out"]


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline("batch_inference")


def test_texts_take_the_declared_types(pipeline):
    given = [
        *REQUIRED,
        "dataset_limit=5",
        "generation_temperature=1",
        "output_overwrite=True",
        'generation_stop=["a"]',
        'engine_options={"seed": 1}',
        "prompt_template=5",
    ]
    values = read_parameters(pipeline, given, None)
    assert values["dataset_limit"] == 5
    assert values["output_overwrite"] is True
    assert values["generation_stop"] == ["a"]
    assert values["engine_options"] == {"seed": 1}
    assert values["prompt_template"] == "5"


def test_assignments_win_over_the_file(pipeline, tmp_path):
    file = tmp_path / "parameters.yaml"
    file.write_text("dataset_uri: a.jsonl\noutput_uri: out\ndataset_limit: 3\n")
    values = read_parameters(pipeline, ["dataset_limit=4"], file)
    assert values == {"dataset_uri": "a.jsonl", "output_uri": "out", "dataset_limit": 4}


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        ([*REQUIRED, "datset_limit=5"], "Did you mean 'dataset_limit'"),
        ([*REQUIRED, "dataset_limit=five"], "dataset_limit has the wrong type. Received: 'five'. Allowed: a whole"),
        ([*REQUIRED, "dataset_limit=1.5"], "Allowed: a whole number"),
        ([*REQUIRED, "generation_max_tokens=true"], "generation_max_tokens has the wrong type"),
        ([*REQUIRED, "generation_stop=END"], "a list as JSON"),
        ([*REQUIRED, "output_overwrite=1"], "true or false"),
        ([*REQUIRED, "dataset_limit"], "Write -p name=value"),
        (["output_uri=out"], "needs more parameters: dataset_uri"),
    ],
    ids=["name", "text", "fraction", "boolean", "list", "number", "no-value", "missing"],
)
def test_mistakes_are_named_before_anything_runs(pipeline, assignments, message):
    with pytest.raises(ConfigurationError, match=message):
        read_parameters(pipeline, assignments, None)


def test_an_unknown_pipeline_is_named():
    with pytest.raises(ConfigurationError, match="Did you mean 'batch_inference'"):
        load_pipeline("batch_inferences")
