"""Fifty broken rows among a thousand: each gets its code, and nothing else changes."""

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.generation.chat_tokenizer import ModelTokenizer
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.preparation import RowPreparer
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.models.resolving import resolve_model
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.schemas import FAULT_CODES

ROWS, EACH = 1000, 5
Row = dict[str, Any]


def said(content: Any, role: str = "user") -> Row:
    return {"messages": [{"role": role, "content": content}]}


BROKEN: dict[str, tuple[Row, str]] = {
    "empty": (said(""), "empty_prompt"),
    "whitespace": (said(" \n\t "), "empty_prompt"),
    "surrogate": (said("half of \ud83d a pair"), "bad_text"),
    "nul": (said("a \0 in it"), "bad_text"),
    "role": (said("hello", role="users"), "bad_messages"),
    "no-list": ({"messages": {"role": "user", "content": "hello"}}, "bad_messages"),
    "params-no-json": ({**said("hello"), "params": "{max_tokens: 3}"}, "bad_params"),
    "params-nested": ({**said("hello"), "params": '{"a":' * 50_000}, "bad_params"),
    "params-name": ({**said("hello"), "params": '{"max_token": 3}'}, "bad_params"),
    "params-bounds": ({**said("hello"), "params": '{"temperature": 7}'}, "bad_params"),
    "too-long": (said("q" * 9000), "prompt_too_long"),
}


def all_rows() -> list[Row]:
    broken = [
        {"params": None, **row, "id": f"{name}-{number}"} for name, (row, _) in BROKEN.items() for number in range(EACH)
    ]
    good = [
        {"params": None, **said(f"question {number}"), "id": f"good-{number}"} for number in range(ROWS - len(broken))
    ]
    return broken + good


def outcomes(rows: list[Row], folder: Path) -> dict[str, Row]:
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DatasetConfig(uri=str(folder / "rows.jsonl"), id_column="id", prompt_messages_column="messages")
    load_dataset(config, folder / "prompts")
    manifest = generate(GenerationConfig(model_uri="echo://"), folder / "prompts", folder / "result")
    assert audit_result(str(folder / "result")).problems == ()
    table = pa.concat_tables(pq.read_table(folder / "result" / part.path) for part in manifest.parts)
    columns = ["row_id", "status", "completion", "error", "request_key", "warnings"]
    return {row["row_id"]: row for row in table.select(columns).to_pylist()}


def test_broken_rows_get_their_codes_and_the_others_their_answers_in_any_order(tmp_path):
    rows = all_rows()
    found = outcomes(rows, tmp_path / "in-order")
    assert len(found) == ROWS
    for name, (_, code) in BROKEN.items():
        assert code in FAULT_CODES
        for number in range(EACH):
            row = found[f"{name}-{number}"]
            assert (row["status"], row["completion"], row["error"]["code"]) == ("invalid", None, code), name
            assert row["error"]["message"]
    good = {row_id: row for row_id, row in found.items() if row_id.startswith("good-")}
    assert Counter(row["status"] for row in good.values()) == {"ok": ROWS - EACH * len(BROKEN)}
    assert all(row["completion"] == f"question {row_id.partition('-')[2]}" for row_id, row in good.items())
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        assert outcomes(rows, tmp_path / f"order-{seed}") == found


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


UNSTORABLE = {
    "content-nul": ({"role": "user", "content": "a\0b"}, "", "bad_text"),
    "content-surrogate": ({"role": "user", "content": "a\ud800b"}, "", "bad_text"),
    "role-nul": ({"role": "user\0", "content": "a"}, "", "bad_messages"),
    "role-surrogate": ({"role": "user\udfff", "content": "a"}, "", "bad_messages"),
    "params-nul": ({"role": "user", "content": "a"}, '{"stop": ["\\u0000"]}', "bad_params"),
    "params-surrogate": ({"role": "user", "content": "a"}, '{"stop": ["\\ud800"]}', "bad_params"),
    "params-name": ({"role": "user", "content": "a"}, '{"json_schema": {"\\udfff": 1}}', "bad_params"),
    "params-deep": ({"role": "user", "content": "a"}, '{"json_schema": {"a": [{"b": "\\u0000"}]}}', "bad_params"),
}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv"])
def test_what_is_no_text_is_a_fault_in_every_format(tmp_path, suffix):
    """Messages and parameters are JSON texts here, so that every format can carry the escapes."""
    good = {"id": "good", "messages": json.dumps([{"role": "user", "content": "hello"}]), "params": ""}
    bad = [
        {"id": name, "messages": json.dumps([message]), "params": params}
        for name, (message, params, _) in UNSTORABLE.items()
    ]
    path = tmp_path / f"rows.{suffix}"
    write_rows(path, [good, *bad])
    load_dataset(DatasetConfig(uri=str(path), id_column="id", prompt_messages_column="messages"), tmp_path / "prompts")
    manifest = generate(GenerationConfig(model_uri="echo://"), tmp_path / "prompts", tmp_path / "result")
    rows = pq.read_table(tmp_path / "result" / manifest.parts[0].path).to_pylist()
    codes = {row["row_id"]: row["error"] and row["error"]["code"] for row in rows}
    assert codes == {"good": None, **{name: code for name, (_, _, code) in UNSTORABLE.items()}}


def test_special_tokens_may_be_refused(make_prompts):
    texts = [f"text {number}" + " <|im_end|>" * (number % 20 == 7) for number in range(200)]
    rows = [{"id": f"{number}", "question": text} for number, text in enumerate(texts)]
    model = resolve_model("demo://smollm2-135m-instruct")

    def prepared(special_tokens: str) -> dict[str, Any]:
        preparer = RowPreparer(
            tokenizer=ModelTokenizer(model.folder, special_tokens),
            sampling=SamplingConfig(),
            model_digest="m",
            answer_settings={},
            max_model_len=1024,
        )
        prompts = Prompts(make_prompts(rows, special_tokens, id_column="id"))
        return {row.row_id: row for batch in preparer.prepare(prompts.batches()) for row in batch}

    refused, taken = prepared("refuse"), prepared("text")
    fault = ("special_token", "A message of the role user holds the special token '<|im_end|>'.")
    for row_id, row in refused.items():
        assert taken[row_id].fault is None
        if int(row_id) % 20 == 7:
            assert row.fault == fault
        else:
            assert row == taken[row_id]
