"""How vLLM's server is started, and the paths that KServe asks it by."""

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_group

from kfp_llm_batch.cli.main import app
from kfp_llm_batch.cli.serve import FRONTEND_BYTES, plan_server, read_options, server_arguments
from kfp_llm_batch.engine.decisions import EngineSettings
from kfp_llm_batch.engine.kserve_paths import KServePaths
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.images import VLLM_CPU_IMAGE
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import Model
from tests.unit import machine_trees as trees
from tests.unit.demo_facts import MODEL

KSERVE = Path(__file__).parents[2] / "images/vllm-cpu/kserve"
SCHEMAS = json.loads(Path(__file__).with_name("kserve_schemas.json").read_text())


def plan(root: Path, context_tokens: int = 2048, **options: Any) -> EngineSettings:
    model = Model(uri="/m", engine="vllm", folder=Path("/m"), revision=None, digest="d", facts=MODEL)
    machine = read_machine(trees.recorded("firecracker-2-cores", root))
    return plan_server(machine, model, context_tokens, 16, {"engines": 1, **options})


def test_the_server_is_planned_as_a_job_is(tmp_path: Path) -> None:
    settings = plan(tmp_path)
    arguments = settings.argument_values()
    assert (arguments["max_model_len"], arguments["max_num_seqs"], arguments["dtype"]) == (2048, 16, "bfloat16")
    assert arguments["kv_cache_memory_bytes"] >= 16 * 2048 / 4 * MODEL.kv_bytes_per_token
    assert settings.environment_values()["OMP_NUM_THREADS"] == "2"
    assert settings.environment_values()["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


def test_a_model_with_a_shorter_context_keeps_its_own(tmp_path: Path) -> None:
    assert plan(tmp_path, context_tokens=100_000).argument_values()["max_model_len"] == MODEL.max_model_len


def test_options_win(tmp_path: Path) -> None:
    assert plan(tmp_path, max_num_seqs=3).argument_values()["max_num_seqs"] == 3


def test_what_cannot_be_held_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Not enough memory"):
        plan(tmp_path, kv_cache_memory_bytes=None, max_num_batched_tokens=FRONTEND_BYTES)


def test_command_line(tmp_path: Path) -> None:
    command = server_arguments(Path("/mnt/models"), "smollm2", 8080, plan(tmp_path, compilation_config={"mode": 0}))
    text = " ".join(command)
    assert text.startswith("--model /mnt/models --served-model-name smollm2 --host 0.0.0.0 --port 8080 ")
    assert "--enforce-eager" in command
    assert "--no-trust-remote-code" in command
    assert '--compilation-config {"mode": 0}' in text


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/openai/v1/completions", "/v1/completions"),
        ("/openai/v1/models", "/v1/models"),
        ("/v2/health/ready", "/health"),
        ("/v2/health/live", "/health"),
        ("/v1/completions", "/v1/completions"),
        ("/metrics", "/metrics"),
        ("/openai/else", "/openai/else"),
    ],
)
def test_paths(path: str, asked: str) -> None:
    seen: list[str] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])

    asyncio.run(KServePaths(application)({"type": "http", "path": path}, None, None))
    assert seen == [asked]


@pytest.mark.parametrize("text", ["[]", "{", "null"])
def test_options_that_are_no_object(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no object in JSON"):
        read_options(text)


def manifest(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((KSERVE / f"{name}.yaml").read_text())
    return loaded


def check_manifest(document: dict[str, Any]) -> None:
    jsonschema.validate(document, SCHEMAS[f"{document['apiVersion']} {document['kind']}"])


@pytest.mark.parametrize("name", ["serving-runtime", "inference-service"])
def test_kserve_takes_the_manifests(name: str) -> None:
    document = manifest(name)
    check_manifest(document)
    wrong = copy.deepcopy(document)
    wrong["spec"]["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        check_manifest(wrong)


def test_the_runtime_is_this_image_called_as_the_command_line_wants() -> None:
    (container,) = manifest("serving-runtime")["spec"]["containers"]
    assert container["image"] == VLLM_CPU_IMAGE
    program, command, *rest = container["command"] + container["args"]
    assert (program, command) == ("kfp-llm-batch", "serve")
    read = (
        get_group(app)
        .commands["serve"]
        .make_context("serve", [part.replace("{{.Name}}", "smollm2") for part in rest])
        .params
    )
    assert (read["model"], read["name"], read["port"]) == ("/mnt/models", "smollm2", 8080)
    assert container["ports"][0]["containerPort"] == read["port"]


def test_the_service_asks_for_that_runtime() -> None:
    model = manifest("inference-service")["spec"]["predictor"]["model"]
    runtime = manifest("serving-runtime")
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in [kind["name"] for kind in runtime["spec"]["supportedModelFormats"]]
