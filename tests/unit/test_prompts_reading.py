from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from kfp_llm_batch.dataset.prompts import Prompts
from kfp_llm_batch.errors import DataError
from kfp_llm_batch.manifests import PromptsManifest, StoredFile
from kfp_llm_batch.schemas import PROMPT_FIELDS

SCHEMA = pa.schema([*PROMPT_FIELDS, pa.field("number", pa.int64()), pa.field("name", pa.string())])


def prompt_row(number: int) -> dict[str, object]:
    messages = [{"role": "user", "content": f"prompt {number}"}]
    return {"row_id": f"row-{number}", "messages": messages, "number": number, "name": f"name {number}"}


def write_folder(folder: Path, shards: list[list[int]], counted: int | None = None) -> Path:
    """Prompts in several files; each shard is the list of its batches' sizes."""
    folder.mkdir()
    numbers = iter(range(100_000))
    files = []
    for index, sizes in enumerate(shards):
        name = f"shard-{index:05d}.arrow"
        with pa.ipc.new_file(str(folder / name), SCHEMA) as file:
            for size in sizes:
                file.write_batch(pa.RecordBatch.from_pylist([prompt_row(next(numbers)) for _ in range(size)], SCHEMA))
        files.append(StoredFile(path=name, rows=sum(sizes), bytes=(folder / name).stat().st_size, sha256=""))
    rows = sum(sum(sizes) for sizes in shards) if counted is None else counted
    PromptsManifest(
        fingerprint="f",
        rows=rows,
        rows_with_faults=0,
        source_uri="d.jsonl",
        source_format="jsonl",
        source_revision=None,
        parameters={},
        shards=tuple(files),
    ).save(folder)
    return folder


def test_batches_come_in_order_with_the_numbers_of_their_rows(tmp_path):
    prompts = Prompts(write_folder(tmp_path / "p", [[3, 4], [2], [5]]))
    found = [(list(rows), batch.column("number").to_pylist()) for rows, batch in prompts.batches()]
    assert [rows[0] for rows, _ in found] == [0, 3, 7, 9]
    assert [rows for rows, _ in found] == [numbers for _, numbers in found]


def test_batches_in_another_order(make_prompts):
    prompts = Prompts(make_prompts([{"question": f"q{index}"} for index in range(600)]))
    order = np.random.default_rng(5).permutation(600)
    found = list(prompts.batches_in(order))
    assert [batch.num_rows for _, batch in found] == [256, 256, 88]
    assert [set(rows) for rows, _ in found] == [set(order[:256]), set(order[256:512]), set(order[512:])]
    for rows, batch in found:
        assert batch.column("row_id").to_pylist() == [str(row) for row in rows]


@pytest.mark.parametrize(
    "rows",
    [[], [0], [13], [2, 3], [0, 6, 7, 8, 9, 13], [5, 5], list(range(14))],
    ids=["none", "first", "last", "border", "every-shard", "twice", "all"],
)
def test_source_columns_of_some_rows(tmp_path, rows):
    prompts = Prompts(write_folder(tmp_path / "p", [[3, 4], [2], [5]]))
    table = prompts.source_columns(rows)
    assert table.schema.names == ["number", "name"]
    assert table.column("number").to_pylist() == rows
    assert table.column("name").to_pylist() == [f"name {row}" for row in rows]


@pytest.mark.parametrize("shards", [[[]], [[], [0], [2]]], ids=["no-batches", "empty-shards"])
def test_shards_without_rows(tmp_path, shards):
    prompts = Prompts(write_folder(tmp_path / "p", shards))
    assert [batch.num_rows for _, batch in prompts.batches() if batch.num_rows] == [2] * (len(shards) > 1)
    assert prompts.source_columns(list(range(prompts.manifest.rows))).num_rows == prompts.manifest.rows
    assert [field.name for field in prompts.source_fields] == ["number", "name"]


def test_what_the_first_step_wrote_is_read(make_prompts):
    prompts = Prompts(make_prompts([{"question": f"q{index}", "n": index} for index in range(2_500)]))
    assert [rows[0] for rows, _ in prompts.batches()] == [0, 1_000, 2_000]
    assert prompts.source_columns([999, 1_000, 2_499]).to_pylist() == [
        {"question": f"q{index}", "n": index} for index in (999, 1_000, 2_499)
    ]


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def cut_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def remove_shard(folder: Path) -> None:
    (folder / "shard-00000.arrow").unlink()


def cut_shard(folder: Path) -> None:
    path = folder / "shard-00000.arrow"
    path.write_bytes(path.read_bytes()[:-20])


def empty_shard(folder: Path) -> None:
    (folder / "shard-00000.arrow").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_manifest, "no manifest: load_dataset did not finish"),
        (cut_manifest, "not a manifest of this product"),
        (remove_shard, r"cannot be read.*shard-00000.arrow"),
        (cut_shard, r"cannot be read.*shard-00000.arrow"),
        (empty_shard, r"cannot be read.*shard-00000.arrow"),
    ],
    ids=["no-manifest", "cut-manifest", "no-shard", "cut-shard", "empty-shard"],
)
def test_a_folder_that_is_not_whole_is_refused(tmp_path, damage, message):
    folder = write_folder(tmp_path / "p", [[3]])
    damage(folder)
    with pytest.raises(DataError, match=message):
        Prompts(folder)


def test_a_manifest_that_counts_other_rows_is_refused(tmp_path):
    with pytest.raises(DataError, match="counts 4 rows, their files hold 3"):
        Prompts(write_folder(tmp_path / "p", [[3]], counted=4))


def mapped_mib() -> float:
    """Pages of files that count as this process's memory."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="there is no /proc")
def test_mapped_prompts_do_not_count_as_memory(tmp_path):
    batches = 1_000
    folder = write_folder(tmp_path / "prompts", [[100] * batches])
    before = mapped_mib()
    prompts = Prompts(folder)
    after_opening = mapped_mib()
    for _, batch in prompts.batches():
        assert batch.num_rows == 100
    size = prompts.manifest.shards[0].bytes / 2**20
    assert max(after_opening, mapped_mib()) - before < size / 2
