"""GPUs, as the kernel shows them; nothing is imported to find them."""

from __future__ import annotations

from pathlib import Path

from kfp_llm_batch.machine.kernel_files import field, read_text


def accelerators(root: Path) -> tuple[str, ...]:
    """Names of the NVIDIA GPUs; a container may see their devices alone."""
    folders = sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))
    if names := [field(read_text(path), "Model") for path in folders]:
        return tuple(name or "NVIDIA GPU" for name in names)
    return tuple("NVIDIA GPU" for _ in (root / "dev").glob("nvidia[0-9]*"))
