"""A GGUF file to a folder that vLLM loads."""

from __future__ import annotations

import os
from pathlib import Path

from kfp_llm_batch.errors import ConfigurationError, first_line
from kfp_llm_batch.workers import call_apart


def convert_gguf(source: Path, folder: Path) -> None:
    """Write `source` as bfloat16 safetensors with its tokenizer and chat template into `folder`.

    Raises:
        ConfigurationError: The file is not a GGUF model that transformers can read.
        InterruptedRunError: Memory did not suffice.
    """
    call_apart(_convert, source, folder)


def _convert(source: Path, folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"  # a log is no terminal
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    location = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name, "local_files_only": True}
    try:
        AutoTokenizer.from_pretrained(**location).save_pretrained(folder)
        quantization = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(**location, quantization_config=quantization, dtype="bfloat16")
        model.save_pretrained(folder, safe_serialization=True)
    except Exception as error:  # whatever the bytes of the file lead transformers to
        raise ConfigurationError(
            f"The GGUF file cannot be converted: {first_line(error)}", received=str(source)
        ) from error
