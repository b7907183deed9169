"""Where the S3 store is and who asks: from the environment, never from a parameter."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Self

from kfp_llm_batch.errors import ConfigurationError

PREFIX = "KFP_LLM_BATCH_S3_"
SECRET_KEYS = {"accesskey": f"{PREFIX}ACCESS_KEY", "secretkey": f"{PREFIX}SECRET_KEY"}
"""Keys of Kubeflow's own object store secret, under names that the KFP launcher does not take for its own."""

# User and password, or a query.
_CONFIDENTIAL = re.compile(r"^(\w+://)?.*@|\?.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """How to reach an S3 store."""

    host: str
    """Host name with an optional port."""
    is_secure: bool
    """HTTPS or HTTP."""
    region: str | None
    access_key: str | None = field(repr=False)
    """None: the AWS chain (environment, ~/.aws/credentials, the pod's or machine's role) finds the credentials."""
    secret_key: str | None = field(repr=False)

    def __post_init__(self) -> None:
        if bool(self.access_key) != bool(self.secret_key):
            given, missing = ("ACCESS", "SECRET") if self.access_key else ("SECRET", "ACCESS")
            raise ConfigurationError(
                f"{PREFIX}{given}_KEY is set without {PREFIX}{missing}_KEY",
                remedy="Set both, or none to use the AWS chain.",
            )

    @property
    def endpoint(self) -> str:
        """Address of the store, for messages."""
        return f"{'https' if self.is_secure else 'http'}://{self.host}"

    @classmethod
    def from_environment(cls) -> Self:
        """Read our own variables first, then those of AWS."""
        endpoint = _first(f"{PREFIX}ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        host, is_secure = _split_endpoint(endpoint or "s3.amazonaws.com")
        region = _first(f"{PREFIX}REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
        return cls(
            host=host,
            is_secure=is_secure,
            # Only AWS itself must be asked for a bucket's region, which needs one more permission.
            region=region or (None if host.endswith(".amazonaws.com") else "us-east-1"),
            access_key=_first(f"{PREFIX}ACCESS_KEY"),
            secret_key=_first(f"{PREFIX}SECRET_KEY"),
        )


def _first(*names: str) -> str | None:
    values = (os.environ.get(name, "").strip() for name in names)
    return next(filter(None, values), None)


def _split_endpoint(endpoint: str) -> tuple[str, bool]:
    scheme, separator, rest = endpoint.rpartition("://")
    host = rest.rstrip("/")
    if (separator and scheme.lower() not in ("http", "https")) or not host or set(host) & set("/@?#"):
        raise ConfigurationError(
            "The endpoint of the S3 store is not an address of a server",
            received=_CONFIDENTIAL.sub(r"\1", endpoint),
            allowed=["http://host:port", "https://host:port", "host:port (https)"],
            remedy=f"Correct {PREFIX}ENDPOINT (or AWS_ENDPOINT_URL).",
        )
    return host, scheme.lower() != "http"
