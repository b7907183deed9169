"""A GGUF file to a folder that vLLM loads: `python -m kfp_llm_batch.models.gguf_conversion FILE FOLDER`.

Runs in a process of its own, so that torch and the unpacked weights leave memory with it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kfp_llm_batch.errors import ConfigurationError


def convert_gguf(source: Path, folder: Path) -> None:
    """Write `source` as bfloat16 safetensors with its tokenizer and chat template into `folder`.

    Raises:
        ConfigurationError: The file is not a GGUF model that transformers can read.
    """
    command = [sys.executable, "-m", "kfp_llm_batch.models.gguf_conversion", str(source), str(folder)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode != 0:
        lines = finished.stderr.strip().splitlines() or ["no message"]
        raise ConfigurationError(f"The GGUF file cannot be converted: {lines[-1]}", received=str(source))


def main() -> None:
    """Convert the file that the arguments name."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    location = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    AutoTokenizer.from_pretrained(**location).save_pretrained(folder)
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(**location, quantization_config=quantization, dtype="bfloat16")
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main()
