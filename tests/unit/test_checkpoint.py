import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from kfp_llm_batch.dataset.loading import DatasetConfig, load_dataset
from kfp_llm_batch.errors import InterruptedRunError
from kfp_llm_batch.generation import parts
from kfp_llm_batch.generation.checkpoint import Checkpoint
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.generation.sampling import SamplingConfig
from kfp_llm_batch.results.audit import audit_result
from kfp_llm_batch.termination import Termination


def make_prompts(folder: Path, texts: list[str]) -> Path:
    source = folder / "rows.jsonl"
    folder.mkdir(exist_ok=True)
    source.write_text("".join(json.dumps({"text": text, "extra": len(text)}) + "\n" for text in texts))
    load_dataset(DatasetConfig(uri=str(source), prompt_template="{{ text }}"), folder / "prompts")
    return folder / "prompts"


def run(prompts: Path, result: Path, checkpoint: Path, **sampling) -> dict[str, str]:
    """Generate with the echo engine; the completions by row id."""
    config = GenerationConfig(model_uri="echo://", checkpoint_uri=str(checkpoint), sampling=SamplingConfig(**sampling))
    generate(config, prompts, result)
    report = audit_result(str(result))
    assert report.ok, report.to_text()
    table = pq.read_table(result / "parts")
    return dict(zip(table["row_id"].to_pylist(), table["completion"].to_pylist(), strict=True))


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "ROWS_PER_PART", 10)


@pytest.mark.usefixtures("small_parts")
def test_a_second_run_takes_every_answer_from_the_checkpoint(tmp_path):
    prompts = make_prompts(tmp_path / "data", [f"text {number}" for number in range(35)])
    first = run(prompts, tmp_path / "one", tmp_path / "checkpoint")
    mark_answers(tmp_path / "checkpoint")
    second = run(prompts, tmp_path / "two", tmp_path / "checkpoint")
    assert first == {str(number): f"text {number}" for number in range(35)}
    assert second == {str(number): f"restored text {number}" for number in range(35)}


def mark_answers(checkpoint: Path) -> None:
    """Change the completions in the checkpoint, so that a restored answer can be told from a generated one."""
    for path in list(checkpoint.glob("*.parquet")):
        table = pq.read_table(path)
        marked = [f"restored {text}" for text in table["completion"].to_pylist()]
        path.unlink()
        changed = path.with_name("changed")
        pq.write_table(table.set_column(table.schema.get_field_index("completion"), "completion", [marked]), changed)
        changed.rename(path.with_name(f"part-{hashlib.sha256(changed.read_bytes()).hexdigest()[:32]}.parquet"))


@pytest.mark.usefixtures("small_parts")
def test_answers_follow_their_requests_when_the_dataset_grows_shrinks_and_is_shuffled(tmp_path):
    run(make_prompts(tmp_path / "a", [f"text {number}" for number in range(20)]), tmp_path / "one", tmp_path / "c")
    mark_answers(tmp_path / "c")
    texts = ["new", *[f"text {number}" for number in reversed(range(5, 15))], "text 7"]
    answers = run(make_prompts(tmp_path / "b", texts), tmp_path / "two", tmp_path / "c")
    expected = [text if text == "new" else f"restored {text}" for text in texts]
    assert [answers[str(number)] for number in range(len(texts))] == expected
    extra = pq.read_table(tmp_path / "two/parts").sort_by("row_id")["extra"].to_pylist()
    assert sorted(extra) == sorted(map(len, texts)), "source columns are those of today's dataset"


def test_a_faulty_row_takes_no_answer_from_the_checkpoint(tmp_path):
    run(make_prompts(tmp_path / "a", ["same", "filler"]), tmp_path / "one", tmp_path / "c")
    source = tmp_path / "rows.jsonl"
    rows = [{"text": "same"}, {"text": "same", "params": {"temperature": 9}}, {"text": "new"}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    load_dataset(DatasetConfig(uri=str(source), prompt_template="{{ text }}"), tmp_path / "prompts")
    assert run(tmp_path / "prompts", tmp_path / "two", tmp_path / "c") == {"0": "same", "1": None, "2": "new"}


def test_changed_settings_are_answered_anew(tmp_path):
    prompts = make_prompts(tmp_path / "data", ["some text"])
    assert run(prompts, tmp_path / "one", tmp_path / "c") == {"0": "some text"}
    assert run(prompts, tmp_path / "two", tmp_path / "c", max_tokens=4) == {"0": "some"}


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_answered_anew(tmp_path, damage):
    prompts = make_prompts(tmp_path / "data", [f"text {number}" for number in range(30)])
    first = run(prompts, tmp_path / "one", tmp_path / "c")
    damaged = sorted((tmp_path / "c").glob("*.parquet"))[0]
    data = bytearray(damaged.read_bytes())
    data[len(data) // 3] ^= 1
    damaged.write_bytes(data if damage == "flipped" else data[:100])
    (tmp_path / "c/other.parquet").write_bytes(b"of somebody else")
    assert run(prompts, tmp_path / "two", tmp_path / "c") == first


def test_parts_go_to_every_kind_of_store(tmp_path, store_uri):
    prompts = make_prompts(tmp_path / "data", ["a", "b"])
    config = GenerationConfig(model_uri="echo://", checkpoint_uri=store_uri)
    generate(config, prompts, tmp_path / "one")
    checkpoint = Checkpoint(store_uri)
    assert len(checkpoint.part_names()) == 1
    generate(config, prompts, tmp_path / "two")
    checkpoint.clear()
    assert checkpoint.part_names() == []


@pytest.mark.usefixtures("small_parts")
def test_a_signal_ends_the_restoring_of_many_parts(tmp_path):
    run(make_prompts(tmp_path / "data", ["a"] * 30), tmp_path / "one", tmp_path / "c")
    tables = Checkpoint(str(tmp_path / "c")).tables()
    with Termination():
        next(tables)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(InterruptedRunError):
            next(tables)


SLOW_RUN = """
import sys
from pathlib import Path
from kfp_llm_batch.generation import parts
from kfp_llm_batch.generation.config import GenerationConfig
from kfp_llm_batch.generation.generating import generate
from kfp_llm_batch.steps import step

parts.ROWS_PER_PART = 50
with step(""):
    generate(GenerationConfig(model_uri="echo://", checkpoint_uri=sys.argv[2]), Path(sys.argv[1]), Path(sys.argv[3]))
"""


def start(prompts: Path, checkpoint: Path, result: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW_RUN, str(prompts), str(checkpoint), str(result)]
    environment = {**os.environ, "KFP_LLM_BATCH_FAULTS": json.dumps({"delay": [[]]})}
    return subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)


def rows_in(checkpoint: Path) -> list[str]:
    return [row for path in checkpoint.glob("*.parquet") for row in pq.read_table(path)["row_id"].to_pylist()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_a_run_that_is_ended_again_and_again_loses_and_repeats_little(tmp_path, number):
    prompts = make_prompts(tmp_path / "data", [f"text {row}" for row in range(1000)])
    checkpoint = tmp_path / "checkpoint"
    for attempt in range(4):
        process = start(prompts, checkpoint, tmp_path / f"result-{attempt}")
        time.sleep(1.2 + 0.17 * attempt)
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, stderr = process.communicate(timeout=10)
        if process.returncode == 0:
            break
        # -15: the interpreter was still importing, and there was nothing to keep.
        assert process.returncode in ((-9,) if number == signal.SIGKILL else (6, -15)), stderr.decode()
        assert len(rows_in(checkpoint)) == len(set(rows_in(checkpoint))), "no row is in two parts"
    answers = run(prompts, tmp_path / "last", checkpoint)
    assert answers == {str(row): f"text {row}" for row in range(1000)}
    assert attempt > 0, "at least one run was ended"
