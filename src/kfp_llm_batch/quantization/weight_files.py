"""Weights to safetensors files of bounded size, with the index that names them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from kfp_llm_batch.disk import new_file

INDEX = "model.safetensors.index.json"


class WeightWriter:
    """Takes tensors one by one; holds no more than one file's worth of them in memory.

    Args:
        folder: Where the files go.
        file_bytes: A file is closed before it becomes larger, unless one tensor alone is.
    """

    def __init__(self, folder: Path, file_bytes: int) -> None:
        self._folder = folder
        self._file_bytes = file_bytes
        self._tensors: dict[str, torch.Tensor] = {}
        self._names_by_file: list[list[str]] = []
        self._pending_bytes = 0
        self._total_bytes = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take one tensor."""
        if self._tensors and self._pending_bytes + tensor.nbytes > self._file_bytes:
            self._flush()
        self._tensors[name] = tensor.contiguous()
        self._pending_bytes += tensor.nbytes

    def finish(self) -> None:
        """Write what is left, give the files their names, and write the index."""
        self._flush()
        weight_map = {}
        for number, names in enumerate(self._names_by_file, start=1):
            file = f"model-{number:05d}-of-{len(self._names_by_file):05d}.safetensors"
            self._temporary(number).rename(self._folder / file)
            weight_map.update(dict.fromkeys(names, file))
        index = {"metadata": {"total_size": self._total_bytes}, "weight_map": weight_map}
        with new_file(self._folder / INDEX) as path:
            path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def _flush(self) -> None:
        with new_file(self._temporary(len(self._names_by_file) + 1)) as path:
            save_file(self._tensors, path, metadata={"format": "pt"})
        self._names_by_file.append(sorted(self._tensors))
        self._total_bytes += self._pending_bytes
        self._tensors, self._pending_bytes = {}, 0

    def _temporary(self, number: int) -> Path:
        return self._folder / f".weights-{number:05d}"
