"""How a pipeline's parameters reach its steps: by their names."""

from collections.abc import Mapping
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent


def run_step(component: BaseComponent, parameters: Mapping[str, Any], **own: Any) -> dsl.PipelineTask:
    """A task of `component`.

    Args:
        component: Its inputs that have the name of a parameter get that parameter.
        parameters: Of the pipeline.
        own: Inputs that come from other steps; they win over parameters of their names.
    """
    shared = {name: parameters[name] for name in component.component_spec.inputs if name in parameters}
    return component(**{**shared, **own})
