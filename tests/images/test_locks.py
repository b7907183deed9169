"""The locks that the images are built from; needs no Docker, but the package index."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.images.docker_images import IMAGES, ROOT, locked

UV = str(Path(sys.executable).with_name("uv"))
GLIBC = {"aarch64": "aarch64-manylinux_2_36", "x86_64": "x86_64-manylinux_2_36"}
"""Debian 12 has glibc 2.36."""
SOURCE_ALONE = "kfp-server-api"
UNREACHABLE = "error sending request"


@pytest.mark.parametrize("machine", sorted(GLIBC))
@pytest.mark.parametrize("name", sorted(IMAGES))
def test_every_package_has_a_wheel(tmp_path: Path, name: str, machine: str) -> None:
    """Of the very hashes in the lock; torch's own lock is apart, and its index is not asked here."""
    command = [UV, "pip", "install", "--dry-run", "--target", str(tmp_path), "--no-deps", "--require-hashes"]
    command += ["--python-version", "3.11", "--python-platform", GLIBC[machine]]
    command += ["--only-binary", ":all:", "--no-binary", SOURCE_ALONE]
    lock = ROOT / f"images/{name}/requirements.lock"
    finished = subprocess.run([*command, "-r", str(lock)], capture_output=True, text=True, check=False)
    if UNREACHABLE in finished.stderr:
        pytest.skip(finished.stderr.strip().splitlines()[0])
    assert finished.returncode == 0, finished.stderr
    would_install = set(re.findall(r"^ \+ ([\w.-]+)==", finished.stderr, re.MULTILINE))
    intel = {"intel-openmp", "intel-cmplr-lib-ur"} if machine == "aarch64" else set()
    assert would_install == set(locked(name)) - intel


def test_the_images_agree_in_their_versions() -> None:
    engine, data = locked("vllm-cpu"), locked("data")
    both = engine.keys() & data.keys()
    assert {package: engine[package] for package in both} == {package: data[package] for package in both}
    assert "pyarrow" in both


def test_debian_packages_are_the_same_for_both_architectures() -> None:
    lines = (ROOT / "images/debian.lock").read_text().splitlines()
    files = [line.split()[1] for line in lines if not line.startswith("#")]
    names = {
        architecture: {
            file.rsplit("_", 1)[0].replace(processor, "ARCH") for file in files if file.endswith(f"_{architecture}.deb")
        }
        for architecture, processor in (("amd64", "x86-64"), ("arm64", "aarch64"))
    }
    assert names["amd64"] == names["arm64"]
    assert len(files) == 2 * len(names["amd64"])
