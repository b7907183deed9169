"""What `warm_engine` compiles, another pod loads: real vLLM and the first layers of the demo model.

Takes about a minute and a half; `make test-endurance` runs it.
"""

import json
import re
from pathlib import Path

import pytest
from kfp import dsl
from kfp_llm_batch.components import generate_completions, warm_engine

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.machine import read_machine
from kfp_llm_batch.models.resolving import resolve_model

pytestmark = [
    pytest.mark.endurance,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not read_machine().has_compiler, reason="nothing can be compiled without a C++ compiler"),
]

LAYERS = 2


def first_layers(folder: Path) -> Path:
    """The demo model without its other layers, which would be compiled in the same way, for a minute longer."""
    from safetensors.torch import load_file, save_file

    source = resolve_model("demo://smollm2-135m-instruct").folder
    folder.mkdir()
    for path in (*source.glob("*.json"), *source.glob("*.jinja")):
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS}))
    (weights,) = source.glob("*.safetensors")
    kept = {name: tensor for name, tensor in load_file(weights).items() if is_kept(name)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def is_kept(name: str) -> bool:
    layer = re.search(r"layers\.(\d+)\.", name)
    return layer is None or int(layer.group(1)) < LAYERS


def compiled_files(folder: Path) -> dict[str, int]:
    """What vLLM and Inductor keep, by their names; a lock is none of it."""
    names = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.stat().st_size for path in names}


def test_another_pod_compiles_nothing(tmp_path, monkeypatch):
    model = first_layers(tmp_path / "model")
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": f"{number} and"}) + "\n" for number in range(3)))
    load_dataset(DatasetConfig(uri=str(tmp_path / "d.jsonl"), prompt_template="{{ text }}"), tmp_path / "prompts")
    warmed = dsl.Artifact(uri=str(tmp_path / "warmed"))
    warm_engine.python_func(engine_cache=warmed, model_uri=str(model), longest_request_tokens=100)
    (machine_folder,) = Path(warmed.path).iterdir()
    before = compiled_files(machine_folder)
    assert any(name.endswith(".so") for name in before)
    assert warmed.metadata["instruction_set"] == read_machine().instruction_set

    monkeypatch.setenv("KFP_LLM_BATCH_CACHE", str(tmp_path / "cache"))
    generate_completions.python_func(
        prompts=dsl.Dataset(uri=str(tmp_path / "prompts")),
        completions=dsl.Dataset(uri=str(tmp_path / "completions")),
        metrics=dsl.Metrics(),
        report=dsl.Markdown(uri=str(tmp_path / "report.md")),
        engine_cache=dsl.Artifact(uri=warmed.uri),
        model_uri=str(model),
        generation_max_tokens=4,
        engine_options={"enforce_eager": False},
    )
    assert json.loads((tmp_path / "completions/manifest.json").read_text())["rows_by_status"]["truncated"] == 3
    assert compiled_files(tmp_path / "cache" / machine_folder.name) == before
