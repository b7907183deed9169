"""Experiments, in which Kubeflow groups runs."""

from __future__ import annotations

from typing import Any

import kfp

from kfp_llm_batch.client.failures import ExistsOnServerError, NotFoundOnServerError, server_errors
from kfp_llm_batch.client.paging import pages


def find_experiment(client: kfp.Client, name: str) -> Any:
    """The experiment of this name.

    Raises:
        ServerError: There is none, or the server did not answer.
    """
    what = f"The experiment {name!r} cannot be found"
    for entry in pages(what, client.list_experiments, "experiments", name=name, **namespace_of(client)):
        return entry
    raise NotFoundOnServerError(what, remedy="Check its name and the namespace.")


def experiment_id(client: kfp.Client, name: str) -> str:
    """The id of the experiment of this name, which is created where it is missing.

    Raises:
        ServerError: The server did not answer, or refused.
    """
    try:
        return str(find_experiment(client, name).experiment_id)
    except NotFoundOnServerError:
        pass
    try:
        with server_errors(f"The experiment {name!r} cannot be created"):
            body = {"display_name": name, **namespace_of(client)}
            return str(client.experiments.experiment_service_create_experiment(experiment=body).experiment_id)
    except ExistsOnServerError:
        # Another client has created it since.
        return str(find_experiment(client, name).experiment_id)


def namespace_of(client: kfp.Client) -> dict[str, str]:
    """The profile, for a server that has them; others refuse the field."""
    namespace = client.get_user_namespace()
    return {"namespace": namespace} if namespace else {}
