"""Which layers of a model become smaller, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.quantization.config import SCHEMES

OUTPUT_LAYER = "lm_head"
_GROUP_SIZES = (128, 64, 32)
"""The largest that divides the inputs of every layer is used."""
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """Sizes of a linear layer."""

    inputs: int
    outputs: int


@dataclass(frozen=True, kw_only=True)
class LayerPlan:
    """What happens to each linear layer."""

    quantized: tuple[str, ...]
    left: Mapping[str, str]
    """Layers that stay as they are, with the reason."""
    group_size: int | None
    """Inputs that share a scale; None gives every output one scale."""


def plan_layers(shapes: Mapping[str, LinearShape], scheme: str) -> LayerPlan:
    """Decide by the shapes of all linear layers alone; the output layer need not be among them.

    Raises:
        ConfigurationError: No layer is left to quantize.
    """
    left = {OUTPUT_LAYER: "the output layer is kept exact"}
    unfit = {name: reason for name, shape in shapes.items() if (reason := _unfit_reason(shape, scheme))}
    # vLLM joins layers of one block that have the same input, and they must then be of one kind.
    siblings = {_input_of(name, shapes[name]): name for name in unfit}
    for name, shape in shapes.items():
        if name in unfit:
            left[name] = unfit[name]
        elif sibling := siblings.get(_input_of(name, shape)):
            left[name] = f"vLLM may join it with {sibling}, which stays"
    quantized = tuple(sorted(name for name in shapes if name not in left))
    if not quantized:
        raise ConfigurationError(
            f"The model has no linear layer that {scheme} can be used for",
            received=f"{len(shapes)} linear layers",
            remedy=f"The kernels take inputs and outputs in multiples of {SCHEMES[scheme].multiples}.",
        )
    group_size = None
    if SCHEMES[scheme].has_groups:
        group_size = next(size for size in _GROUP_SIZES if not any(shapes[name].inputs % size for name in quantized))
    return LayerPlan(quantized=quantized, left=dict(sorted(left.items())), group_size=group_size)


def linear_shapes(folder: Path) -> dict[str, LinearShape]:
    """The linear layers of a model, the output layer left out; no weight is read.

    Raises:
        ConfigurationError: transformers does not know the model without code of its own, or it has experts.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, KeyError, OSError, AttributeError) as error:
        raise ConfigurationError(
            f"transformers cannot lay out the model: {str(error).splitlines()[0]}", received=folder.name
        ) from error
    _refuse_experts(config)
    output = model.get_output_embeddings()
    return {
        name: LinearShape(inputs=module.in_features, outputs=module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not output
    }


def _refuse_experts(config: Any) -> None:
    text = config.get_text_config()
    for name in _EXPERT_COUNTS:
        if (getattr(text, name, None) or 0) > 1:
            raise ConfigurationError(
                "Models with a mixture of experts are not quantized here: their weights are nearly all experts, for "
                "which no scheme was tried on CPU",
                received=f"{name}={getattr(text, name)}",
                remedy="Use a checkpoint that its publisher has quantized, or a dense model.",
            )


def _unfit_reason(shape: LinearShape, scheme: str) -> str:
    inputs, outputs = SCHEMES[scheme].multiples
    if shape.inputs % inputs:
        return f"its {shape.inputs} inputs are no multiple of {inputs}"
    return f"its {shape.outputs} outputs are no multiple of {outputs}" if shape.outputs % outputs else ""


def _input_of(name: str, shape: LinearShape) -> tuple[str, int]:
    return name.rpartition(".")[0], shape.inputs
