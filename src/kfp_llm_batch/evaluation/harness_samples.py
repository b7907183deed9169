"""What lm-evaluation-harness logged with `--log_samples`, as a result of ours with the scores that it gave."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kfp_llm_batch.errors import DataError
from kfp_llm_batch.evaluation.completion_rows import RECORDED
from kfp_llm_batch.manifests import Checksum, ResultManifest, StoredFile
from kfp_llm_batch.schemas import completions_schema

_PART = "parts/part-00000.parquet"
_TASK = re.compile(r"samples_(?P<task>.+?)(?:_\d{4}-\d{2}-\d{2}T.*)?\.jsonl")
_LARGEST_SHARE, _LARGEST_POINTS = 1.0, 100.0

Line = Mapping[str, Any]


def import_samples(path: Path, folder: Path, model: str | None = None) -> dict[str, Any]:
    """Write the samples of one task into `folder` as `generate_completions` would; several filters of a row are one.

    Args:
        path: samples_<task>_<date>.jsonl.
        folder: Gets one part and the manifest.
        model: What answered; without it the name of the file's folder, which the harness names by the model.

    Returns:
        What goes into `evaluation_scorers`: the scorer of what was measured, shares and points apart.

    Raises:
        DataError: A line is no sample, or none has a number that can be compared.
    """
    lines = _read(path)
    rows = _by_document(lines, len({line.get("filter") for line in lines}) > 1)
    values = {name: [row[RECORDED][name] for row in rows if name in row[RECORDED]] for name in _names(rows)}
    shares = tuple(name for name, found in values.items() if min(found) >= 0 and max(found) <= _LARGEST_SHARE)
    others = [name for name in values if name not in shares]
    points = tuple(name for name in others if min(values[name]) >= 0 and max(values[name]) <= _LARGEST_POINTS)
    if not shares and not points:
        raise DataError("No metric of the samples is a number from 0 to 1 or from 0 to 100", received=path.name)
    fields = [pa.field(name, pa.string()) for name in ("question", "target", "doc")]
    fields.append(pa.field(RECORDED, pa.struct([pa.field(name, pa.float64()) for name in (*shares, *points)])))
    (folder / _PART).parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=completions_schema(fields)), folder / _PART, compression="zstd")
    _manifest(path, rows, folder, model or path.absolute().parent.name).save(folder)
    return {"name": RECORDED, "names": list(shares), "points": list(points)}


def _read(path: Path) -> list[Line]:
    lines = []
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            try:
                line = json.loads(text)
                _ = line["doc_id"], line["doc"], line["resps"], line["filtered_resps"]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"Line {number} of {path.name} is no sample of lm-evaluation-harness: {error!r}",
                    remedy="Run lm_eval with --log_samples --output_path FOLDER, and name its samples_*.jsonl.",
                ) from error
            lines.append(line)
    if not lines:
        raise DataError("There are no samples in the file", received=path.name)
    return lines


def _by_document(lines: Iterable[Line], has_filters: bool) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for line in lines:
        row = rows.setdefault(str(line["doc_id"]), _row(line))
        row[RECORDED] |= _scores(line, has_filters)
    return list(rows.values())


def _row(line: Line) -> dict[str, Any]:
    question, texts = _question(line.get("arguments")), _texts(line)
    return {
        "row_id": str(line["doc_id"]),
        "request_key": hashlib.sha256(question.encode("utf-8", "surrogatepass")).hexdigest(),
        "status": "ok",
        "completion": texts[0],
        "outputs": [{"text": text} for text in texts],
        "question": question,
        "target": _text(line.get("target")),
        "doc": json.dumps(line["doc"], ensure_ascii=False, sort_keys=True),
        RECORDED: {},
    }


def _scores(line: Line, has_filters: bool) -> dict[str, float]:
    """The finite numbers among the metrics; newer harnesses name them in `metrics`, all have them beside the rest."""
    names = line.get("metrics") or [name for name in line if name not in _NOT_METRICS]
    ending = f"_{line.get('filter')}" if has_filters else ""
    return {
        re.sub(r"\W", "_", f"{name}{ending}"): float(line[name])
        for name in names
        if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    }


_NOT_METRICS = frozenset(
    {
        *("doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"),
        *("doc_hash", "prompt_hash", "target_hash"),
    }
)


def _names(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row[RECORDED]))


def _question(arguments: Any) -> str:
    """The text of the first request: [[prompt, ...]], or {"gen_args_0": {"arg_0": prompt}}."""
    while isinstance(arguments, list | Mapping) and arguments:
        arguments = arguments[0] if isinstance(arguments, list) else next(iter(arguments.values()))
    return _text(arguments) or ""


def _texts(line: Line) -> list[str]:
    """The generated samples; where choices were weighed instead, what the filter made of their likelihoods."""
    samples = line["resps"][0] if line["resps"] else []
    if isinstance(samples, list) and samples and all(isinstance(sample, str) for sample in samples):
        return list(samples)
    return [_text(line["filtered_resps"]) or ""]


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _manifest(path: Path, rows: Sequence[Mapping[str, Any]], folder: Path, model: str) -> ResultManifest:
    keys, asked = Checksum(), Checksum()
    for row in rows:
        keys.add(row["row_id"], row["request_key"])
        asked.add(row["row_id"], row["question"], row["doc"])
    match = _TASK.fullmatch(path.name)
    task = match["task"] if match else path.stem
    return ResultManifest(
        created_at=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        output_format="parquet",
        rows_in=len(rows),
        rows_out=len(rows),
        rows_by_status={"ok": len(rows)},
        num_prompt_tokens=0,
        num_completion_tokens=0,
        keys_checksum=keys.hexdigest(),
        parts=(StoredFile.of(folder / _PART, _PART, len(rows)),),
        errors=(),
        dataset={"fingerprint": asked.hexdigest(), "rows": len(rows), "uri": f"lm-evaluation-harness: {task}"},
        model={"uri": model, "revision": None, "digest": None},
        sampling={},
        engine={},
        versions={},
        machine={},
    )
