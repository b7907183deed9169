"""What every component has in common: the image it runs in, and where its parameters are described."""

from collections.abc import Callable

from kfp import dsl
from kfp_llm_batch.components.parameters import documented

from kfp_llm_batch.images import VLLM_CPU_IMAGE


def step_component(function: Callable) -> Callable:
    """A component that runs in this product's image, in which all that it imports is installed."""
    return dsl.component(documented(function), base_image=VLLM_CPU_IMAGE, install_kfp_package=False)
