"""Virtual environments of the peers, one for each set of packages, so that none hampers another."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from kfp_llm_batch.caches import cache_folder

REPOSITORY = Path(__file__).resolve().parents[1]
BENCH_FOLDER = cache_folder() / "bench"

_PEERS = REPOSITORY / "benchmarks/peers"
_TORCH = REPOSITORY / "images/vllm-cpu/torch.lock"
_VLLM = REPOSITORY / "images/vllm-cpu/requirements.lock"

REQUIREMENTS: dict[str, tuple[Path, ...]] = {
    "vllm": (_VLLM, _TORCH),
    "transformers": (_PEERS / "transformers.txt", _TORCH),
    "openvino_genai": (_PEERS / "openvino_genai.txt", _TORCH),
    "ray_data_llm": (_VLLM, _TORCH, _PEERS / "ray_data_llm.txt"),
    "charts": (_PEERS / "charts.txt",),
}
"""Files with exact versions; each environment is installed from its own, one after the other."""


class InstallationError(Exception):
    """An environment cannot be made; the message is pip's last line."""


def environment_python(name: str | None) -> Path:
    """The interpreter of an environment, which is made if it is not there; None is the one that runs this."""
    if name is None:
        return Path(sys.executable)
    folder = BENCH_FOLDER / "environments" / name
    python, mark = folder / "bin/python", folder / "installed"
    wanted = _digest(REQUIREMENTS[name])
    if not mark.exists() or mark.read_text(encoding="ascii") != wanted:
        print(f"Creating the environment {name} in {folder}", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        for file in REQUIREMENTS[name]:
            _install(python, file)
        mark.write_text(wanted, encoding="ascii")
    return python


def _digest(files: tuple[Path, ...]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _install(python: Path, file: Path) -> None:
    try:
        _run([str(python), "-m", "pip", "install", "-qq", "--no-cache-dir", "--no-deps", "-r", str(file)])
    except InstallationError:
        if file != _TORCH:
            raise
        # pip finds no torch for CPU here; PyTorch's own index has it, which uv knows.
        uv = Path(sys.executable).with_name("uv")
        _run(
            [
                str(uv),
                "pip",
                "install",
                "-q",
                "--python",
                str(python),
                "--no-deps",
                "--torch-backend",
                "cpu",
                "-r",
                str(file),
            ]
        )


def _run(command: list[str]) -> None:
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        lines = [line for line in finished.stderr.splitlines() if line.strip()]
        raise InstallationError(lines[-1] if lines else f"exit code {finished.returncode}")
