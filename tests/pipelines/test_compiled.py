"""Everything that is compiled and shipped, found by looking for it: components and pipelines of later days too."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from kfp_llm_batch import __version__
from kfp_llm_batch.cli.compilation import compile_all
from kfp_llm_batch.cli.pipeline_graphs import graph_svg

COMPONENTS = {path.parent.name: path for path in Path(str(files("kfp_llm_batch.components"))).glob("*/component.yaml")}
PIPELINES = {path.parent.name: path for path in Path(str(files("kfp_llm_batch.pipelines"))).glob("*/pipeline.yaml")}
COMPILED = COMPONENTS | PIPELINES

PLACEHOLDER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(\w+)'\]\}\}")
PINNED_TAG = re.compile(r"[a-z0-9./-]+:(?P<tag>[0-9]+\.[0-9]+\.[0-9]+[\w.-]*)")

OUTSIDE_NAMES = {
    "batch_inference": {
        *("dataset_uri", "dataset_format", "dataset_config", "dataset_split", "dataset_revision", "dataset_limit"),
        *("dataset_id_column", "dataset_cache_salt"),
        *("prompt_template", "prompt_system", "prompt_messages_column", "prompt_examples"),
        *("model_uri", "model_revision"),
        *("generation_max_tokens", "generation_temperature", "generation_top_p", "generation_n", "generation_seed"),
        *("generation_stop", "generation_json_schema", "generation_options"),
        *("generation_context_policy", "generation_special_tokens"),
        *("engine_device", "engine_dtype", "engine_options"),
        *("output_uri", "output_format", "output_overwrite", "checkpoint_uri", "reuse_uri"),
        *("retry_of", "retry_error_codes", "max_error_rate", "max_duration_seconds"),
        *("storage_secret_name", "storage_endpoint", "resources_cpu", "resources_memory", "runtime_image"),
        *("resources_node_selector", "resources_tolerations"),
    },
}
OUTSIDE_NAMES["sharded_batch_inference"] = OUTSIDE_NAMES["batch_inference"] - {
    *("checkpoint_uri", "retry_of", "retry_error_codes", "max_duration_seconds"),
} | {"num_shards", "shard_parallelism", "shard_target_hours"}
"""What checks, notebooks and other people's runs rely on."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text(encoding="utf-8")) if document]


def specification(path: Path) -> dict[str, Any]:
    return documents(path)[0]


def parameters(definition: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = definition.get("inputDefinitions", {}).get("parameters", {})
    return found


def dags(compiled: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The root and every component that is a graph itself, by name; loops and conditions are such components."""
    for name, definition in {"root": compiled["root"], **compiled["components"]}.items():
        if "dag" in definition:
            yield name, definition


def tasks(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every task that is a pod of its own, or several, at any depth."""
    return {
        f"{graph}/{name}": task
        for graph, definition in dags(compiled)
        for name, task in definition["dag"]["tasks"].items()
        if "dag" not in compiled["components"][task["componentRef"]["name"]]
    }


def of_the_pipeline(name: str) -> str:
    """The pipeline's own parameter, where a group of tasks knows it by a longer name."""
    return name.removeprefix("pipelinechannel--")


def executors(compiled: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compiled["deploymentSpec"]["executors"]
    return found


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key`, at any depth."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name == key:
                yield value
            yield from values_of(value, key)
    elif isinstance(tree, list):
        for entry in tree:
            yield from values_of(entry, key)


every_file = pytest.mark.parametrize("path", COMPILED.values(), ids=COMPILED.keys())
every_pipeline = pytest.mark.parametrize("path", PIPELINES.values(), ids=PIPELINES.keys())


def test_the_search_finds_what_there_is():
    assert {"load_dataset", "generate_completions", "write_results"} <= COMPONENTS.keys()
    assert OUTSIDE_NAMES.keys() <= PIPELINES.keys()


@pytest.fixture(scope="module")
def compiled_twice(tmp_path_factory) -> list[Path]:
    """Two compiles in processes of their own, whose sets and hashes are ordered differently."""
    folders = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp("compiled")
        command = [str(Path(sys.executable).with_name("kfp-llm-batch")), "compile", "--output", str(folder)]
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True)
        folders.append(folder)
    return folders


@every_file
def test_the_committed_file_is_what_its_source_compiles_to_every_time(path, compiled_twice):
    for folder in compiled_twice:
        assert (folder / path.parent.name / path.name).read_bytes() == path.read_bytes()


def test_nothing_is_compiled_that_is_not_committed(compiled_twice):
    assert {file.parent.name for file in compiled_twice[0].glob("*/*.yaml")} == COMPILED.keys()


def test_the_check_accepts_what_is_committed(capsys):
    compile_all(None, check=True)
    assert "up to date" in capsys.readouterr().out


@every_file
def test_the_file_is_plain_ascii(path):
    assert path.read_bytes().isascii()


@every_file
def test_nothing_is_installed_when_a_pod_starts(path):
    for executor in executors(specification(path)).values():
        command = " ".join([*executor["container"]["command"], *executor["container"].get("args", [])])
        assert "pip install" not in command
        assert "-m pip" not in command


@every_file
def test_every_image_is_pinned(path):
    compiled = specification(path)
    for executor in executors(compiled).values():
        image = executor["container"]["image"]
        if placeholder := PLACEHOLDER.fullmatch(image):
            image = parameters(compiled["root"])[placeholder[1]]["defaultValue"]
        pinned = PINNED_TAG.fullmatch(image)
        assert pinned, image
        assert pinned["tag"] == __version__


@every_file
def test_every_input_that_is_used_is_declared(path):
    compiled = specification(path)
    for graph, definition in dags(compiled):
        declared = definition.get("inputDefinitions", {})
        for name, task in definition["dag"]["tasks"].items():
            where = f"{graph}/{name}"
            assert set(values_of(task, "componentInputParameter")) <= declared.get("parameters", {}).keys(), where
            assert set(values_of(task, "componentInputArtifact")) <= declared.get("artifacts", {}).keys(), where


@every_file
def test_every_placeholder_is_an_input_of_its_task(path):
    compiled = specification(path)
    for name, task in tasks(compiled).items():
        inputs = task.get("inputs", {}).get("parameters", {})
        label = compiled["components"][task["componentRef"]["name"]].get("executorLabel")
        executor = executors(compiled)[label] if label else {}
        used = set(PLACEHOLDER.findall(json.dumps([inputs, executor])))
        assert {f"pipelinechannel--{parameter}" for parameter in used} <= inputs.keys(), name


@every_pipeline
def test_every_kubernetes_setting_uses_declared_inputs(path):
    compiled, *others = documents(path)
    for setting in others:
        used = set(map(of_the_pipeline, values_of(setting, "componentInputParameter")))
        assert used <= parameters(compiled["root"]).keys()


@every_pipeline
def test_every_kubernetes_setting_uses_inputs_of_the_graph_that_its_task_stands_in(path):
    compiled, kubernetes = documents(path)
    settings = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for graph, definition in dags(compiled):
        for name, task in definition["dag"]["tasks"].items():
            label = compiled["components"][task["componentRef"]["name"]].get("executorLabel")
            used = set(values_of(settings.get(label, {}), "componentInputParameter"))
            assert used <= parameters(definition).keys(), f"{graph}/{name}"


@every_file
def test_default_parameters_are_small(path):
    defaults = {
        name: entry["defaultValue"]
        for name, entry in parameters(specification(path)["root"]).items()
        if "defaultValue" in entry
    }
    assert len(json.dumps(defaults)) < 10_000


@every_file
def test_the_name_is_one_that_kubeflow_takes(path):
    name = specification(path)["pipelineInfo"]["name"]
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
    assert name.replace("-", "_") == path.parent.name


@every_file
def test_every_parameter_is_described(path):
    entries = parameters(specification(path)["root"])
    assert entries
    assert [name for name, entry in entries.items() if not entry.get("description", "").strip()] == []


@every_pipeline
def test_every_task_is_retried(path):
    for name, task in tasks(specification(path)).items():
        assert task.get("retryPolicy", {}).get("maxRetryCount", 0) >= 1, name


@every_pipeline
def test_no_task_is_cached(path):
    for name, task in tasks(specification(path)).items():
        assert not task["cachingOptions"].get("enableCache", False), name


@every_pipeline
def test_credentials_come_from_a_secret_that_may_be_absent(path):
    compiled, kubernetes = documents(path)
    settings = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert settings.keys() == executors(compiled).keys()
    for name, setting in settings.items():
        for secret in setting["secretAsEnv"]:
            assert secret["optional"] is True, name
            (used,) = secret["secretNameParameter"].values()
            assert of_the_pipeline(used) == "storage_secret_name", name
    assert parameters(compiled["root"])["storage_secret_name"]["isOptional"] is True


@every_pipeline
def test_generating_pods_take_their_resources_from_parameters(path):
    compiled, kubernetes = documents(path)
    generating = [name for name in executors(compiled) if "generate-" in name]
    assert generating
    for name in generating:
        resources = executors(compiled)[name]["container"]["resources"]
        placeholders = {key: PLACEHOLDER.findall(value) for key, value in resources.items()}
        assert placeholders == {
            "resourceCpuLimit": ["resources_cpu"],
            "resourceCpuRequest": ["resources_cpu"],
            "resourceMemoryLimit": ["resources_memory"],
            "resourceMemoryRequest": ["resources_memory"],
        }
        (mount,) = kubernetes["platforms"]["kubernetes"]["deploymentSpec"]["executors"][name]["emptyDirMounts"]
        assert (mount["mountPath"], mount["medium"]) == ("/dev/shm", "Memory")


@pytest.mark.parametrize("name", OUTSIDE_NAMES)
def test_the_outside_names_are_kept(name):
    assert parameters(specification(PIPELINES[name])["root"]).keys() == OUTSIDE_NAMES[name]


@every_pipeline
def test_the_shortest_call_needs_a_dataset_and_an_output_alone(path):
    entries = parameters(specification(path)["root"])
    assert {name for name, entry in entries.items() if not entry.get("isOptional")} == {"dataset_uri", "output_uri"}


@every_pipeline
def test_a_parameter_of_a_step_has_the_same_type_and_default_in_the_pipeline(path):
    compiled = specification(path)
    root = parameters(compiled["root"])
    for name, component in compiled["components"].items():
        for parameter, entry in parameters(component).items():
            if parameter not in root or "executorLabel" not in component:
                continue
            assert root[parameter]["parameterType"] == entry["parameterType"], (name, parameter)
            if "defaultValue" in entry and "defaultValue" in root[parameter]:
                assert root[parameter]["defaultValue"] == entry["defaultValue"], (name, parameter)


@every_pipeline
def test_every_parameter_reaches_a_step(path):
    compiled, *others = documents(path)
    used = set(map(of_the_pipeline, values_of([*tasks(compiled).values(), *others], "componentInputParameter")))
    assert parameters(compiled["root"]).keys() <= used


@every_file
def test_no_secret_is_a_parameter(path):
    names = parameters(specification(path)["root"]).keys()
    assert not [name for name in names if re.search(r"password|token$|secret(?!_name)|access_key", name)]


def test_the_picture_of_a_pipeline_has_each_step_once_and_no_arrow_that_others_imply():
    name, svg = graph_svg(PIPELINES["evaluation"].read_text(encoding="utf-8"))
    assert name == "evaluation"
    steps = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert sorted(steps) == sorted(set(steps))
    assert {"load-dataset", "summarize-evaluation"} <= set(steps)
    # A chain of eight steps, beside it one that two of them stand before and after.
    assert svg.count("<path") == 9
