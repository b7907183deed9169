"""Addresses of data: which scheme, what comes after it, and how to show one in a message without its secrets."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import unquote

from kfp_llm_batch.errors import ConfigurationError

SCHEMES = ("file", "s3", "minio", "gs", "hf", "http", "https")
STORE_SCHEMES = ("file", "s3", "minio", "gs")

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
_SLASHES_FORGOTTEN = re.compile(r"(s3|minio|gs|hf|https?|file):(?!//)", re.IGNORECASE)
# Secret keys can hold a slash or an at sign; a bucket's name, unlike a web host's, has no colon.
_USERINFO = re.compile(
    r"^(?:(https?://)[^/]*@|((?!https?:)[a-z][a-z0-9+.\-]*://)(?:[^/@]*:.*@|[^/]*@))", re.IGNORECASE | re.DOTALL
)


def split_uri(uri: str, schemes: Collection[str] = SCHEMES) -> tuple[str, str]:
    """Split an address into its scheme and the rest.

    A plain path has the scheme `file`; `minio://` counts as `s3`, since Kubeflow Pipelines writes it.
    The rest is a path for `file`, `bucket/key` for a store and what follows `//` otherwise.

    Args:
        uri: A path or an address.
        schemes: Those that the caller can use.

    Raises:
        ConfigurationError: The address is empty, its scheme is not among `schemes`, or it carries credentials.
    """
    if not uri.strip():
        raise ConfigurationError("An address is empty", allowed=_examples(schemes))
    scheme, rest = _split(uri)
    if scheme not in schemes:
        raise ConfigurationError(
            f"The address {redact(uri)} has a scheme that cannot be used here",
            received=scheme,
            allowed=[*schemes, "a plain path"] if "file" in schemes else schemes,
        )
    return {"minio": "s3"}.get(scheme, scheme), _checked_rest(uri, scheme, rest)


def check_segments(uri: str, rest: str) -> None:
    """Refuse an address in a store that its clients would read differently from what was meant.

    Args:
        uri: The whole address, for the message.
        rest: Its bucket and key, as `split_uri` gives it; one slash at the end is legal.

    Raises:
        ConfigurationError: It has an empty segment, "." or "..", or a question mark.
    """
    segments = rest.removesuffix("/").split("/")
    if "?" in rest or not {"", ".", ".."}.isdisjoint(segments):
        raise ConfigurationError(
            f"The address {redact(uri)} holds '//', '.', '..' or '?', which a name in a store may not",
            remedy="Write scheme://bucket/folder/name, without a query.",
        )


def redact(uri: str) -> str:
    """The address without user, password, token and query, for messages; forgotten slashes are put in."""
    if match := _SLASHES_FORGOTTEN.match(uri):
        uri = f"{match[0]}//{uri[match.end() :].lstrip('/')}"
    shown = _USERINFO.sub(r"\1\2", uri)
    if not _SCHEME.match(shown) or shown.lower().startswith("file:"):
        return shown
    # A question mark without "=" is a wildcard in a store's key, but always starts a query on the web.
    query = r"\?.*" if shown.lower().startswith("http") else r"\?[^?]*=.*"
    return re.sub(query, "", shown, flags=re.DOTALL)


def join_uri(uri: str, key: str) -> str:
    """The address of `key` under `uri`."""
    return f"{uri.rstrip('/')}/{key.lstrip('/')}" if key else uri


def _split(uri: str) -> tuple[str, str]:
    if match := _SCHEME.match(uri):
        return match[1].lower(), uri[match.end() :]
    if match := _SLASHES_FORGOTTEN.match(uri):
        raise ConfigurationError(
            f"An address lacks the two slashes after {match[0]!r}",
            remedy=f"Write {redact(uri)}; for a file of that name put ./ before it.",
        )
    return "file", uri


def _checked_rest(uri: str, scheme: str, rest: str) -> str:
    if scheme == "file":
        return _file_path(uri, rest)
    if _USERINFO.match(uri) and not scheme.startswith("http"):
        raise ConfigurationError(
            f"The address {redact(uri)} was given with credentials in it",
            remedy="Take them out; the store reads them from its environment variables or a mounted secret.",
        )
    if not rest.strip("/"):
        raise ConfigurationError(
            f"The address {redact(uri)} names nothing after its scheme", allowed=[f"{scheme}://name"]
        )
    return rest


def _file_path(uri: str, rest: str) -> str:
    if not _SCHEME.match(uri):
        return rest
    path = unquote(rest.removeprefix("localhost"))
    if not path.startswith("/"):
        raise ConfigurationError(
            f"The address {redact(uri)!r} is not an absolute file address",
            remedy="Write file:///folder/name, or a plain path.",
        )
    return path


def _examples(schemes: Collection[str]) -> list[str]:
    return ["/folder/name" if scheme == "file" else f"{scheme}://..." for scheme in schemes]
