"""Where files are kept between runs, also for a user without a home, as pods run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """`KFP_LLM_BATCH_CACHE`, else the user's cache folder, else one in the temporary folder."""
    if chosen := os.environ.get("KFP_LLM_BATCH_CACHE"):
        return Path(chosen)
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    if _can_be_written(user):
        return user / "kfp-llm-batch"
    return Path(tempfile.gettempdir()) / f"kfp-llm-batch-{os.getuid()}"


def set_hub_cache() -> None:
    """Give the Hugging Face libraries a place that can be written, unless they have one."""
    own = Path("~/.cache/huggingface").expanduser()
    if not {"HF_HOME", "XDG_CACHE_HOME"} & os.environ.keys() and not _can_be_written(own):
        os.environ["HF_HOME"] = str(cache_folder() / "huggingface")


def _can_be_written(folder: Path) -> bool:
    # Unlike Path.exists, os.path.exists takes what may not be looked at for absent.
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # noqa: PTH110
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
