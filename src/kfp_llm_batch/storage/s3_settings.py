"""Where the S3 store is and who asks: from the environment, never from a parameter."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from kfp_llm_batch.errors import ConfigurationError

PREFIX = "KFP_LLM_BATCH_S3_"
AWS_ENDPOINT = "s3.amazonaws.com"

# User and password, or a query.
_CONFIDENTIAL = re.compile(r"^(\w+://)?.*@|\?.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class S3Settings:
    """How to reach an S3 store."""

    host: str = AWS_ENDPOINT
    """Host name with an optional port."""
    is_secure: bool = True
    """HTTPS or HTTP."""
    region: str | None = None
    access_key: str | None = field(default=None, repr=False)
    """None: the AWS chain (environment, ~/.aws/credentials, the pod's or machine's role) finds the credentials."""
    secret_key: str | None = field(default=None, repr=False)

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
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read our own variables first, then those of AWS."""
        endpoint = _first(environment, f"{PREFIX}ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        host, is_secure = _split_endpoint(endpoint) if endpoint else (AWS_ENDPOINT, True)
        region = _first(environment, f"{PREFIX}REGION", "AWS_REGION", "AWS_DEFAULT_REGION")
        return cls(
            host=host,
            is_secure=is_secure,
            # Only AWS itself must be asked for a bucket's region, which needs one more permission.
            region=region or (None if host.endswith(".amazonaws.com") else "us-east-1"),
            access_key=_first(environment, f"{PREFIX}ACCESS_KEY"),
            secret_key=_first(environment, f"{PREFIX}SECRET_KEY"),
        )


def _first(environment: Mapping[str, str], *names: str) -> str | None:
    values = (environment.get(name, "").strip() for name in names)
    return next((value for value in values if value), None)


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
