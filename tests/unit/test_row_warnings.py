"""What a row's warnings say reaches every format and survives a restart."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result
from kfp_llm_batch.schemas import COMPLETION_FIELDS, WARNING_CODES

ROWS = {
    "none": ({"question": "short"}, None),
    "cut": ({"question": "q" * 200}, ["prompt_truncated"]),
    "repaired": ({"question": "1234567\u00fc"}, ["text_repaired"]),
    "both": ({"question": "1234567\u00fc" + "q" * 200}, ["prompt_truncated", "text_repaired"]),
    "invalid": ({"question": " "}, None),
}
EXPECTED = {name: warnings for name, (_, warnings) in ROWS.items()}


@pytest.fixture
def prompts(make_prompts) -> Path:
    rows = [{"id": name, **row} for name, (row, _) in ROWS.items()]
    folder: Path = make_prompts(rows, id_column="id")
    return folder


def run(prompts: Path, result: Path, **changes: Any) -> Path:
    config = GenerationConfig(
        model_uri="echo://",
        sampling=SamplingConfig(max_tokens=8),
        context_policy="truncate_right",
        engine_options={"max_model_len": 100},
        **changes,
    )
    generate(config, prompts, result)
    return result


def warnings_of(result: Path) -> dict[str, list[str] | None]:
    table = pa.concat_tables(pq.read_table(path) for path in (result / "parts").iterdir())
    return dict(zip(table["row_id"].to_pylist(), table["warnings"].to_pylist(), strict=True))


def test_every_row_has_its_warnings(prompts, tmp_path):
    assert warnings_of(run(prompts, tmp_path / "result")) == EXPECTED
    assert audit_result(str(tmp_path / "result")).problems == ()
    names = [column.name for column in COMPLETION_FIELDS]
    assert names[names.index("error") + 1] == "warnings"


def test_they_come_back_from_a_checkpoint(prompts, tmp_path, caplog):
    checkpoint = str(tmp_path / "checkpoint")
    run(prompts, tmp_path / "first", checkpoint_uri=checkpoint)
    caplog.clear()
    with caplog.at_level("INFO"):
        second = run(prompts, tmp_path / "second", checkpoint_uri=checkpoint)
    assert "The engine is ready" not in caplog.text
    assert warnings_of(second) == EXPECTED


@pytest.mark.parametrize("output_format", ["parquet", "jsonl", "openai"])
def test_they_are_published_and_audited_in_every_format(prompts, tmp_path, output_format):
    output = tmp_path / "output"
    manifest = publish_result(run(prompts, tmp_path / "result"), str(output), output_format=output_format)
    assert audit_result(str(output)).problems == ()
    if output_format == "parquet":
        assert warnings_of(output) == EXPECTED
        return
    lines = [json.loads(line) for line in (output / manifest.parts[0].path).read_text().splitlines()]
    if output_format == "jsonl":
        assert {line["row_id"]: line["warnings"] for line in lines} == EXPECTED
    else:
        assert {line["custom_id"]: line["metadata"]["warnings"] for line in lines} == EXPECTED


@pytest.mark.parametrize("warnings", [[], ["careful"], "text_repaired", [None], [{}], [["text_repaired"]]], ids=repr)
@pytest.mark.parametrize("output_format", ["jsonl", "openai"])
def test_an_audit_finds_unknown_warnings(prompts, tmp_path, output_format, warnings):
    output = tmp_path / "output"
    manifest = publish_result(run(prompts, tmp_path / "result"), str(output), output_format=output_format)
    path = output / manifest.parts[0].path
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (lines[1] if output_format == "jsonl" else lines[1]["metadata"])["warnings"] = warnings
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "row 2 (counted from 1) has the unknown warnings" in "\n".join(audit_result(str(output)).problems)


def test_the_codes_are_those_that_occur():
    assert {code for codes in EXPECTED.values() for code in codes or ()} == set(WARNING_CODES)
