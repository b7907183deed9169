"""One word for one thing: signatures of components and pipelines, held against each other and against the docs."""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import kfp_llm_batch.components
import kfp_llm_batch.pipelines
import pytest
from kfp_llm_batch.components.parameters import PARAMETERS

DOCS = Path(kfp_llm_batch.components.__path__[0]).parent / "docs"
TABLE_ROW = re.compile(r"^\| `(?P<name>\w+)` \| [\w ]+ \| (?:`(?P<default>.*?)`|required) \| (?P<meaning>.+) \|$", re.M)
PREFIXES = {
    *("dataset", "prompt", "model", "generation", "engine", "output", "checkpoint", "reuse", "retry", "max", "num"),
    *("shard", "shards", "job", "evaluation", "baseline", "gate", "storage", "resources", "runtime", "quantization"),
    *("run", "history", "result", "longest"),
}
OTHER_DEFAULTS = {
    ("generate_on_cluster", "shard_parallelism"),  # a cluster's Job wants a number
    *(("generate_completions", "output_uri"), ("quantize_model", "output_uri")),  # they may have none
}


def signature(function: Callable[..., object]) -> dict[str, inspect.Parameter]:
    """The parameters alone: artifacts and what Kubeflow gives by itself are none."""
    found = inspect.signature(function).parameters
    return {name: entry for name, entry in found.items() if entry.annotation in (str, int, float, bool, list, dict)}


STEPS = {name: getattr(kfp_llm_batch.components, name).python_func for name in kfp_llm_batch.components.__all__}
FORMS = {name: getattr(kfp_llm_batch.pipelines, name).pipeline_func for name in kfp_llm_batch.pipelines.__all__}
SIGNATURES = {name: signature(function) for name, function in (STEPS | FORMS).items()}


def table(text: str) -> dict[str, str | None]:
    """Names with defaults as the docs show them; None for what is required."""
    return {row["name"]: row["default"] for row in TABLE_ROW.finditer(text)}


def shown(entries: dict[str, inspect.Parameter]) -> dict[str, str | None]:
    return {
        name: None if entry.default is entry.empty else json.dumps(entry.default) for name, entry in entries.items()
    }


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_table_beside_the_source_is_its_signature(name):
    folder = "components" if name in STEPS else "pipelines"
    readme = DOCS.parent / folder / name / "README.md"
    assert table(readme.read_text()) == shown(SIGNATURES[name])


@pytest.mark.parametrize("name", FORMS)
def test_the_table_of_a_form_is_the_signature_of_its_pipeline(name):
    page = (DOCS / "kubeflow-ui.md").read_text()
    section = page.split(f"### {name.replace('_', '-')}\n")[1].split("\n### ")[0].split("<!-- end")[0]
    assert table(section) == shown(SIGNATURES[name])


def test_a_parameter_has_one_type_and_one_default_wherever_it_stands():
    found = defaultdict(set)
    for place, entries in SIGNATURES.items():
        for name, entry in entries.items():
            if (place, name) not in OTHER_DEFAULTS and entry.default is not entry.empty:
                found[name].add((entry.annotation, json.dumps(entry.default)))
    assert {name: kinds for name, kinds in found.items() if len(kinds) > 1} == {}


def test_the_words_are_those_of_several_places_and_of_no_other():
    places = defaultdict(set)
    for place, entries in SIGNATURES.items():
        for name in entries:
            places[name].add(place)
    unused = {name for name in PARAMETERS if len(places[name]) < 2}
    assert unused == set()
    assert {name for entries in map(SIGNATURES.get, FORMS) for name in entries or ()} <= PARAMETERS.keys()


def test_a_name_begins_with_the_thing_that_it_is_about():
    names = {name for entries in SIGNATURES.values() for name in entries} - {"outcome"}
    assert {name for name in names if name.split("_")[0] not in PREFIXES} == set()
