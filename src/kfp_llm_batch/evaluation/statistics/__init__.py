"""The statistics of one run and of two, by scipy and statsmodels.

Both are loaded by the first function that needs them: most steps of an evaluation need none, and would wait 0.8 s.
"""

from importlib.util import find_spec

if missing := [name for name in ("scipy", "statsmodels") if find_spec(name) is None]:
    # Said here, since components import what they need before they can turn errors into messages.
    raise ModuleNotFoundError(
        f"Evaluating needs {', '.join(missing)}. Install the extra: pip install 'kfp-llm-batch[evaluation]'",
        name=missing[0],
    )
