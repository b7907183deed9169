"""Jobs in shards that reuse answers of earlier ones, although rows move from shard to shard."""

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.sharding.answering import answer_in_turn
from kfp_llm_batch.sharding.job import JobAddress
from kfp_llm_batch.sharding.merging import merge_shards
from kfp_llm_batch.storage.object_store import open_store

Row = Mapping[str, Any]


def table(rows: int) -> list[Row]:
    return [{"id": f"q{index}", "question": f"What is {index} and {index}?"} for index in range(rows)]


def generated(manifest: ResultManifest) -> int:
    return manifest.num_completion_tokens - manifest.reused["completion_tokens"]


def in_shards(make_job: Callable[..., Any], rows: list[Row], shards: int, **changes: Any) -> ResultManifest:
    address, _ = make_job(rows, shards, **changes)
    answer_in_turn(JobAddress.parse(address.with_shards(range(shards))), None)
    manifest = merge_shards(address)
    report = audit_result(address.output_uri)
    assert report.ok, report.to_text()
    return manifest


@pytest.mark.store
def test_shards_reuse_though_rows_move_between_them(make_job, tmp_path, s3_uri):
    first = in_shards(make_job, table(200), 3, output_uri=str(tmp_path / "first"), reuse_uri=s3_uri)
    second = in_shards(make_job, table(220), 5, output_uri=str(tmp_path / "second"), reuse_uri=s3_uri)
    assert (first.reused["rows"], second.reused["rows"]) == (0, 200)
    assert generated(second) <= 0.12 * generated(first)
    rows = [row for part in second.parts for row in pq.read_table(tmp_path / "second" / part.path).to_pylist()]
    assert {row["provenance"]["run_id"] for row in rows if row["provenance"]} == {first.run_id}
    assert not list(open_store(str(tmp_path / "second")).list("shards/")), "the merge leaves nothing behind"


def test_a_split_that_is_repeated_hands_answers_out_once(make_job, tmp_path):
    shared = tmp_path / "shared"
    in_shards(make_job, table(50), 2, output_uri=str(tmp_path / "first"), reuse_uri=str(shared))
    found = []
    for _ in range(2):
        address, _ = make_job(table(60), 4, reuse_uri=str(shared))
        found.append(sorted(entry.key for entry in open_store(address.uri).list("checkpoint/")))
    assert found[0] == found[1]
    assert len(found[0]) == 4
