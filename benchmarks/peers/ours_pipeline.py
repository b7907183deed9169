"""Our whole pipeline by its command: dataset file to a result in its place, then audited by `verify`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.peers.ours_result import outcome_of
from benchmarks.peers.protocol import Job, Outcome, serve, since_start
from kfp_llm_batch.manifests import FILE_NAME, ResultManifest


def run(job: Job, work: Path, prepared: Path) -> Outcome:
    """See protocol.Run."""
    output = work / "result"
    parameters = {
        "dataset_uri": job.dataset,
        "dataset_id_column": "id",
        "prompt_messages_column": "messages",
        "model_uri": job.model,
        "generation_max_tokens": job.max_tokens,
        "output_uri": output,
    }
    options = [part for name, value in parameters.items() for part in ("-p", f"{name}={value}")]
    command = str(Path(sys.executable).with_name("kfp-llm-batch"))
    subprocess.run([command, "run", "batch_inference", *options], check=True)
    subprocess.run([command, "verify", str(output)], check=True)
    manifest = ResultManifest.from_json((output / FILE_NAME).read_text(encoding="utf-8"), str(output))
    return outcome_of(job, output, manifest, since_start())


if __name__ == "__main__":
    serve(run)
