"""A run that answers only what an earlier result has no answer for."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.engine.faults import VARIABLE as FAULTS
from kfp_llm_batch.errors import ConfigurationError, ResultError
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.results.publishing import publish_result

ROWS = [
    {"id": "a", "question": "good"},
    {"id": "b", "question": " "},
    {"id": "c", "question": "killer"},
    {"id": "d", "question": "cut short"},
]


def run(prompts: Path, folder: Path, max_tokens: int = 6, **changes: Any) -> ResultManifest:
    config = GenerationConfig(model_uri="echo://", sampling=SamplingConfig(max_tokens=max_tokens), **changes)
    manifest = generate(config, prompts, folder)
    assert audit_result(str(folder)).problems == ()
    return manifest


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    tables = [pq.read_table(path) for path in sorted(folder.glob("parts/*.parquet"))]
    return {row["row_id"]: row for row in pa.concat_tables(tables).drop_columns("provenance").to_pylist()}


@pytest.fixture(params=["parquet", "jsonl"])
def earlier(request, make_prompts, tmp_path, monkeypatch):
    """Address of a result with one row ok, one truncated, one invalid and one failed."""
    prompts = make_prompts(ROWS, id_column="id")
    monkeypatch.setenv(FAULTS, json.dumps({"SIGKILL": [list(b"killer")]}))
    run(prompts, tmp_path / "first")
    publish_result(tmp_path / "first", str(tmp_path / "earlier"), output_format=request.param)
    monkeypatch.delenv(FAULTS)
    return str(tmp_path / "earlier")


def statuses(folder: Path) -> dict[str, str]:
    return {row_id: row["status"] for row_id, row in rows_of(folder).items()}


def test_rows_without_an_answer_are_answered_and_the_others_taken_over(earlier, make_prompts, tmp_path):
    mended = [ROWS[0], {"id": "b", "question": "mended"}, ROWS[2], ROWS[3]]
    # The longer limit would change the answer of row d, if it were asked again.
    manifest = run(make_prompts(mended, "mended", id_column="id"), tmp_path / "second", max_tokens=20, retry_of=earlier)
    rows, before = rows_of(tmp_path / "second"), rows_of(tmp_path / "first")
    assert statuses(tmp_path / "second") == {"a": "ok", "b": "ok", "c": "ok", "d": "truncated"}
    assert (rows["b"]["completion"], rows["c"]["completion"]) == ("mended", "killer")
    assert [rows[name] for name in "ad"] == [before[name] for name in "ad"]
    assert manifest.retry_of == {"uri": earlier, "rows": 2}


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (("engine_killed",), {"a": "ok", "b": "invalid", "c": "ok", "d": "truncated"}),
        (("truncated",), {"a": "ok", "b": "invalid", "c": "failed", "d": "ok"}),
        (("truncated", "failed"), {"a": "ok", "b": "invalid", "c": "ok", "d": "ok"}),
    ],
    ids=["code", "status", "both"],
)
def test_only_rows_of_the_chosen_codes_are_answered(earlier, make_prompts, tmp_path, codes, expected):
    prompts = make_prompts(ROWS, "again", id_column="id")
    run(prompts, tmp_path / "second", max_tokens=20, retry_of=earlier, retry_error_codes=codes)
    assert statuses(tmp_path / "second") == expected


def test_new_rows_are_answered_and_rows_no_longer_in_the_dataset_left_out(earlier, make_prompts, tmp_path):
    prompts = make_prompts([{"id": "new", "question": "new"}, ROWS[0]], "other", id_column="id")
    manifest = run(prompts, tmp_path / "second", retry_of=earlier)
    assert statuses(tmp_path / "second") == {"a": "ok", "new": "ok"}
    assert manifest.retry_of["rows"] == 1


def test_a_code_that_no_row_has_is_an_error_that_names_those_there_are(earlier, make_prompts, tmp_path):
    prompts = make_prompts(ROWS, "again", id_column="id")
    with pytest.raises(ConfigurationError, match=r"engine_exploded.*empty_prompt, engine_killed"):
        run(prompts, tmp_path / "second", retry_of=earlier, retry_error_codes=("engine_exploded",))


def test_nothing_to_retry_gives_the_same_rows_again(make_prompts, tmp_path):
    prompts = make_prompts([ROWS[0]], id_column="id")
    first = run(prompts, tmp_path / "first")
    second = run(prompts, tmp_path / "second", retry_of=str(tmp_path / "first"))
    assert second.keys_checksum == first.keys_checksum
    assert rows_of(tmp_path / "second") == rows_of(tmp_path / "first")


def test_there_must_be_a_result_that_holds_whole_rows(make_prompts, tmp_path):
    prompts = make_prompts([ROWS[0]], id_column="id")
    with pytest.raises(ResultError, match="There is no result"):
        run(prompts, tmp_path / "second", retry_of=str(tmp_path / "nowhere"))
    run(prompts, tmp_path / "first")
    publish_result(tmp_path / "first", str(tmp_path / "openai"), output_format="openai")
    with pytest.raises(ConfigurationError, match="openai"):
        run(prompts, tmp_path / "second", retry_of=str(tmp_path / "openai"))


def test_a_retry_that_is_ended_goes_on_from_its_checkpoint(earlier, make_prompts, tmp_path):
    prompts, kept = make_prompts(ROWS, "again", id_column="id"), str(tmp_path / "kept")
    for name in ("second", "third"):
        run(prompts, tmp_path / name, max_tokens=20, retry_of=earlier, checkpoint_uri=kept)
    assert rows_of(tmp_path / "second") == rows_of(tmp_path / "third")
