"""Pods that answer shards, lose their processes, and give up; and the merge that accepts nothing but every row."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kfp_llm_batch.engine import faults
from kfp_llm_batch.errors import (
    ConfigurationError,
    DataError,
    IncompleteRunError,
    InterruptedRunError,
    ResultError,
)
from kfp_llm_batch.manifests import ResultManifest
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.sharding.answering import answer_in_turn
from kfp_llm_batch.sharding.attempts import ATTEMPTS, answer_shards
from kfp_llm_batch.sharding.job import JobAddress, JobFolder
from kfp_llm_batch.sharding.merging import merge_shards
from kfp_llm_batch.storage.object_store import open_store


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"q{index}", "question": f"question {index}", "n": index} for index in range(count)]


def in_process(address: JobAddress, *numbers: int) -> None:
    """Answer some shards without processes of their own, which start slowly."""
    answer_in_turn(JobAddress.parse(address.with_shards(numbers)), None)


def files(folder: str | Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


class Killer(threading.Thread):
    """Kills the processes that answer shards, as they appear."""

    def __init__(self, times: int, number: signal.Signals = signal.SIGKILL) -> None:
        super().__init__(daemon=True)
        self.killed: list[int] = []
        self._times = times
        self._number = number
        self._ended = threading.Event()

    def run(self) -> None:
        while len(self.killed) < self._times and not self._ended.wait(0.01):
            for process in self._answering():
                if process not in self.killed:
                    self.killed.append(process)
                    os.kill(process, self._number)

    def stop(self) -> None:
        self._ended.set()
        self.join()

    @staticmethod
    def _answering() -> Iterator[int]:
        children = Path(f"/proc/self/task/{threading.main_thread().native_id}/children").read_text().split()
        for child in children:
            try:
                if b"kfp_llm_batch.sharding.answering" in Path(f"/proc/{child}/cmdline").read_bytes():
                    yield int(child)
            except OSError:
                continue


@pytest.fixture
def kill() -> Iterator[Callable[[int], Killer]]:
    killers = []

    def start(times: int) -> Killer:
        killer = Killer(times)
        killer.start()
        killers.append(killer)
        return killer

    yield start
    for killer in killers:
        killer.stop()


def test_many_shards_are_one_result(make_job):
    address, _ = make_job(rows(300), 12)
    in_process(address, *range(12))
    manifest = merge_shards(address)
    assert (manifest.rows_in, manifest.rows_out, manifest.rows_by_status["ok"]) == (300, 300, 300)
    assert manifest.dataset["shards"] == 12
    assert len(manifest.parts) == 12
    report = audit_result(address.output_uri)
    assert (report.problems, report.rows) == ((), 300)
    assert files(address.output_uri) == {"manifest.json", *(part.path for part in manifest.parts)}
    assert not Path(address.output_uri, "shards").exists()
    assert merge_shards(address) == manifest
    assert answer_shards(address, None) == {}


def test_shards_have_the_keys_of_the_whole(make_job, tmp_path):
    checksums = []
    for shards in (1, 3):
        address, _ = make_job(rows(60), shards, output_uri=str(tmp_path / f"output-{shards}"))
        in_process(address, *range(shards))
        checksums.append(merge_shards(address).keys_checksum)
    assert checksums[0] == checksums[1]


@pytest.mark.parametrize("output_format", ["jsonl", "openai"])
def test_other_formats_and_rows_without_an_answer(make_job, output_format):
    table = [*rows(20), *({"id": f"bad{index}", "question": " ", "n": index} for index in range(3))]
    address, _ = make_job(table, 5, output_format=output_format)
    in_process(address, *range(5))
    manifest = merge_shards(address)
    assert (manifest.rows_by_status["ok"], manifest.rows_by_status["invalid"]) == (20, 3)
    assert manifest.errors_by_code == {"empty_prompt": 3}
    assert audit_result(address.output_uri).problems == ()


def test_a_shard_of_bad_rows_alone_is_no_failure_but_a_whole_dataset_is(make_job):
    table = [{"id": f"bad{index}", "question": "q" * 9_000} for index in range(4)]
    address, _ = make_job([*table, {"id": "good", "question": "q"}], 5)
    in_process(address, *range(5))
    assert merge_shards(address).rows_by_status["invalid"] == 4
    address, _ = make_job(table, 2, output_overwrite=True)
    in_process(address, 0, 1)
    with pytest.raises(DataError, match="4 of 4 rows have no answer"):
        merge_shards(address)


def test_the_error_budget_is_that_of_all_shards(make_job):
    table = [*rows(18), {"id": "bad0", "question": "q" * 9_000}, {"id": "bad1", "question": "q" * 9_000}]
    address, _ = make_job(table, 4, max_error_rate=0.05)
    in_process(address, *range(4))
    with pytest.raises(DataError, match=r"2 of 20 rows have no answer \(max_error_rate is 0.05\): 2 prompt_too_long"):
        merge_shards(address)
    address, _ = make_job(table, 4, max_error_rate=0.1)
    assert answer_shards(address, None) == {}
    assert merge_shards(address).rows_out == 20


def test_parts_are_joined_and_faulty_rows_kept_apart(make_job, monkeypatch):
    monkeypatch.setattr("kfp_llm_batch.generation.parts.ROWS_PER_PART", 1_000)
    table = [*rows(2_500), {"id": "bad", "question": " "}]
    address, _ = make_job(table, 1)
    in_process(address, 0)
    manifest = merge_shards(address)
    assert [part.rows for part in manifest.parts] == [2_501]
    assert audit_result(address.output_uri).problems == ()
    monkeypatch.setattr("kfp_llm_batch.sharding.uploading.FILE_BYTES", manifest.parts[0].bytes // 2)
    address, _ = make_job(table, 1, max_tokens=9, output_overwrite=True)
    in_process(address, 0)
    assert len(merge_shards(address).parts) > 1
    assert audit_result(address.output_uri).problems == ()


def test_a_shard_that_is_killed_until_its_last_attempt_is_answered_exactly(make_job, kill):
    address, _ = make_job(rows(40), 2)
    killer = kill(ATTEMPTS - 1)
    assert answer_shards(JobAddress.parse(address.with_shards([0, 1])), None).keys() == {0, 1}
    assert len(killer.killed) == ATTEMPTS - 1
    assert merge_shards(address).rows_out == 40
    assert audit_result(address.output_uri).problems == ()


def test_a_shard_that_never_succeeds_is_refused_by_the_merge(make_job, kill):
    address, job = make_job(rows(40), 4)
    in_process(address, 0, 3)
    killer = kill(ATTEMPTS)
    assert answer_shards(JobAddress.parse(address.with_shards([1])), None) == {}
    assert len(killer.killed) == ATTEMPTS
    lost = job.shards[1].rows + job.shards[2].rows
    with pytest.raises(IncompleteRunError) as refused:
        merge_shards(address)
    message = str(refused.value)
    assert message.startswith(
        f"2 of 4 shards have no answers, {lost} of 40 rows: shard 1 of {job.shards[1].rows} rows ('q"
    )
    assert "whose last attempt ended with EngineError: Its process was killed by SIGKILL" in message
    assert "shard 2 of" in message
    assert "whose pod was lost or never started" in message
    listed = [json.loads(line) for line in Path(address.uri, "missing_rows.jsonl").read_text().splitlines()]
    assert len({row["row_id"] for row in listed}) == lost
    assert {row["shard"] for row in listed} == {1, 2}
    assert not Path(address.output_uri, "manifest.json").exists()

    assert answer_shards(address, None).keys() == {1, 2}  # the repair: all without a manifest
    assert merge_shards(address).rows_out == 40
    assert audit_result(address.output_uri).problems == ()
    assert not Path(address.output_uri, "shards").exists()


def test_what_another_attempt_cannot_mend_is_raised_at_once(make_job, kill):
    address, _ = make_job(rows(4), 2, model_uri="/no/such/model")
    with pytest.raises(ConfigurationError, match="There is no model at this path"):
        answer_shards(JobAddress.parse(address.with_shards([0, 1])), None)
    with pytest.raises(ConfigurationError, match="The job has no such shard"):
        in_process(address, 9)


def test_a_pod_that_is_told_to_end_passes_it_on(make_job, monkeypatch):
    monkeypatch.setenv(faults.VARIABLE, json.dumps({"delay": [list(b"question")]}))
    address, _ = make_job(rows(400), 2)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    with pytest.raises(InterruptedRunError):
        answer_shards(JobAddress.parse(address.with_shards([0, 1])), None)
    timer.join()
    assert time.monotonic() - started < 20


def change(folder: JobFolder, number: int, **changes: object) -> None:
    manifest = folder.manifest(number)
    assert manifest is not None
    fields = json.loads(manifest.to_json()) | changes
    folder.save_manifest(number, ResultManifest.from_json(json.dumps(fields), "test"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows_out": 9}, "shard 1: rows out should be 10, is 9"),
        ({"rows_in": 11}, "shard 1: rows in should be 10, is 11"),
        ({"model": {"digest": "other"}, "created_at": "2020"}, "shard 1: model should be echo, is other"),
        ({"dataset": {"fingerprint": "other"}}, "shard 1: dataset should be"),
        ({"output_format": "jsonl"}, "shard 1: format should be parquet, is jsonl"),
        ({"parts": []}, "shard 1: rows of its parts should be 10, is 0"),
    ],
)
def test_a_shard_that_does_not_fit_is_refused_and_answered_anew(make_job, changes, message):
    address, _ = make_job(rows(30), 3)
    in_process(address, 0, 1, 2)
    change(JobFolder(open_store(address.uri)), 1, **changes)
    with pytest.raises(ResultError, match=message):
        merge_shards(address)
    with pytest.raises(IncompleteRunError, match="1 of 3 shards"):
        merge_shards(address)
    in_process(address, 1)
    assert merge_shards(address).rows_out == 30


def test_a_part_that_is_gone_or_cut_is_refused(make_job):
    address, _ = make_job(rows(30), 3)
    in_process(address, 0, 1, 2)
    first, second, _ = sorted(Path(address.output_uri, "parts").iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(
        ResultError, match=r"2 problems\): shard 0: parts/part-00000-.* is None; shard 1: parts/part-00001-"
    ):
        merge_shards(address)


def test_leftovers_of_lost_attempts_go_and_files_of_others_stay(make_job):
    address, _ = make_job(rows(30), 3)
    in_process(address, 0, 1, 2)
    Path(address.output_uri, "parts/part-00001-00007-0123456789ab.parquet").write_bytes(b"half of an attempt")
    Path(address.uri, "notes.txt").write_text("mine")
    merge_shards(address)
    assert audit_result(address.output_uri).problems == ()
    assert {name for name in files(address.output_uri) if name.startswith("shards/")} == {
        f"shards/{address.id}/notes.txt"
    }


def test_a_result_that_came_meanwhile_is_not_replaced(make_job, tmp_path):
    first, _ = make_job(rows(10), 2)
    second, _ = make_job(rows(12), 2)
    in_process(first, 0, 1)
    in_process(second, 0, 1)
    merge_shards(first)
    with pytest.raises(ConfigurationError, match="Another result stands at the output: 10 rows"):
        merge_shards(second)
    assert audit_result(first.output_uri).problems == ()


@pytest.mark.store
def test_shards_in_a_store(make_job, s3_uri):
    address, _ = make_job(rows(50), 4, output_uri=s3_uri)
    in_process(address, 0, 1, 2, 3)
    assert merge_shards(address).rows_out == 50
    assert audit_result(s3_uri).problems == ()
    assert [entry.key for entry in open_store(s3_uri).list("shards/")] == []
