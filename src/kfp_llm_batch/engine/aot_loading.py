"""vLLM 0.32 saves what it compiles for CPU, and then does not load it; with this plugin it does.

After loading, vLLM calls `finalize_loading` of the compiled function, which its own functions have. On CPU the function
is one of torch, without it, and vLLM compiles again for a minute. vLLM calls `register` as a `vllm.general_plugins`
entry point, in each of its processes.
"""

from __future__ import annotations

import functools
from typing import Any


def register() -> None:
    """Give what torch loads the method that vLLM calls; there is nothing left to be finalized."""
    import torch

    load = torch.compiler.load_compiled_function
    if not hasattr(load, "__wrapped__"):
        torch.compiler.load_compiled_function = _completing(load)


def _completing(load: Any) -> Any:
    @functools.wraps(load)
    def load_and_complete(*arguments: Any, **options: Any) -> Any:
        loaded = load(*arguments, **options)
        compiled = loaded._artifacts.compiled_fn
        if not hasattr(compiled, "finalize_loading"):
            compiled.finalize_loading = lambda config: None
        return loaded

    return load_and_complete
