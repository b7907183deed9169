"""Where the files of a dataset lie, and how they come onto the local disk."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests
import tenacity

from kfp_llm_batch.dataset.batches import DataFile
from kfp_llm_batch.disk import file_sha256, writing
from kfp_llm_batch.errors import ConfigurationError, StorageError
from kfp_llm_batch.storage.object_store import open_store
from kfp_llm_batch.storage.protocol import check_key
from kfp_llm_batch.storage.uris import redact, split_uri

_LOG = logging.getLogger("kfp_llm_batch")
_CONNECT_SECONDS, _READ_SECONDS = 10, 60
_ATTEMPTS = 4
_RETRIED = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files that an address names, before any of them is fetched."""

    names: tuple[str, ...]
    """Relative to the address' folder, sorted."""
    is_folder: bool
    """The address names a folder, where files of no known kind are passed over."""
    fetch: Callable[[str], DataFile]


def list_files(uri: str, working_folder: Path) -> Listing:
    """List the files that `uri` names; those that are not local are fetched into `working_folder`.

    Raises:
        ConfigurationError: There is nothing.
        StorageError: A store or a server did not answer.
    """
    scheme, rest = split_uri(uri)
    if scheme == "file":
        return _local(uri, Path(rest))
    if scheme.startswith("http"):
        return _web(uri, working_folder)
    return _stored(uri, scheme, rest, working_folder)


def digest(files: list[DataFile]) -> str:
    """What was read: the SHA-256 of the files' SHA-256, in order."""
    digests = (bytes.fromhex(file_sha256(file.path)) for file in files)
    return f"sha256:{hashlib.sha256(b''.join(digests)).hexdigest()}"


def _local(uri: str, path: Path) -> Listing:
    try:
        if path.is_file():
            return Listing(names=(path.name,), is_folder=False, fetch=_local_fetch(path.parent))
        if path.is_dir():
            return _checked(uri, Listing(names=_walk(path), is_folder=True, fetch=_local_fetch(path)))
        root, pattern = _split_wildcard(path.as_posix())
        if pattern is None:
            raise ConfigurationError(f"{uri} does not exist", remedy="Check dataset_uri and what is mounted.")
        depth = math.inf if "**" in path.as_posix() else len(path.parts) - len(Path(root).parts)
        names = tuple(name for name in _walk(Path(root), depth) if pattern.fullmatch(name))
        return _checked(uri, Listing(names=names, is_folder=False, fetch=_local_fetch(Path(root))))
    except OSError as error:
        raise ConfigurationError(
            f"{uri[:200]} cannot be opened: {error.strerror}", remedy="Check dataset_uri and the rights to it."
        ) from error


def _walk(folder: Path, depth: float = math.inf) -> tuple[str, ...]:
    return tuple(sorted(path.relative_to(folder).as_posix() for path in _files_below(folder, depth)))


def _files_below(folder: Path, depth: float, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files in `depth` levels of folders, those behind links too, but no folder within itself."""
    real = folder.resolve()
    if depth == 0 or real in above:
        return
    for path in _entries(folder):
        if path.is_dir():
            yield from _files_below(path, depth - 1, above | {real})
        elif path.is_file():
            yield path


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except PermissionError:  # such as lost+found
        _LOG.warning("%s is passed over: it may not be read", folder)
        return []


def _local_fetch(folder: Path) -> Callable[[str], DataFile]:
    return lambda name: DataFile(path=folder / name, name=str(folder / name))


def _stored(uri: str, scheme: str, rest: str, working_folder: Path) -> Listing:
    root, pattern = _split_wildcard(rest)
    prefix = folder = ""
    if pattern is None:
        root, _, prefix = rest.rstrip("/").rpartition("/")
        root, prefix = (root, prefix) if root else (prefix, "")
    store = open_store(f"{scheme}://{root}")
    names = tuple(entry.key for entry in store.list(prefix))

    def fetch(name: str) -> DataFile:
        path = working_folder / check_key(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(folder + name, path)
        return DataFile(path=path, name=f"{scheme}://{root}/{folder}{name}")

    if pattern is not None:
        names, is_folder = tuple(filter(pattern.fullmatch, names)), False
    elif prefix in names:
        names, is_folder = (prefix,), False
    else:
        folder = f"{prefix}/" if prefix else ""
        names, is_folder = tuple(name.removeprefix(folder) for name in names if name.startswith(folder)), True
    return _checked(uri, Listing(names=names, is_folder=is_folder, fetch=fetch))


def _split_wildcard(path: str) -> tuple[str, re.Pattern[str] | None]:
    """The folder before the first wildcard, and what names below it must match; `*` stays within a folder."""
    start = re.search(r"[*?\[]", path)
    if start is None:
        return path, None
    root, slash, _ = path[: start.start()].rpartition("/")
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|.", path[len(root + slash) :])
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    kept = [token if len(token) > 1 and token[0] == "[" else meaning.get(token) or re.escape(token) for token in tokens]
    try:
        return root or ("/" if slash else "."), re.compile("".join(kept).replace("[!", "[^"))
    except re.error as error:
        raise ConfigurationError(
            f"dataset_uri holds a wildcard that is not valid: {error}", received=path, remedy="Write sets as in [a-z]."
        ) from error


def _checked(uri: str, listing: Listing) -> Listing:
    if listing.names:
        return listing
    what = "is an empty folder, or there is nothing" if listing.is_folder else "matches no file"
    raise ConfigurationError(f"{redact(uri)} {what}", remedy="Check dataset_uri: names are case-sensitive.")


def _web(uri: str, working_folder: Path) -> Listing:
    try:
        name = PurePosixPath(unquote(urlsplit(uri).path)).name or "data"
    except ValueError as error:
        raise ConfigurationError(
            f"{redact(uri)} is not an address of a web server: {error}", allowed=["https://host/name"]
        ) from error

    def fetch(name: str) -> DataFile:
        path = working_folder / name
        _download(uri, path)
        return DataFile(path=path, name=redact(uri))

    return Listing(names=(name,), is_folder=False, fetch=fetch)


class _ServerBusyError(Exception):
    """The server answered 429 or 5xx."""


def _download(uri: str, path: Path) -> None:
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
        retry=tenacity.retry_if_exception_type((*_RETRIED, _ServerBusyError)),
        reraise=True,
    )
    try:
        retrying(_download_once, uri, path)
    except _ServerBusyError as error:
        raise StorageError(f"{redact(uri)} was not answered: {error}", remedy="Retry later.") from error
    except requests.RequestException as error:
        # The library's text may repeat the address with its token.
        raise StorageError(
            f"{redact(uri)} cannot be fetched: {type(error).__name__}", remedy="Check the address and the network."
        ) from None


def _download_once(uri: str, path: Path) -> None:
    with requests.get(uri, stream=True, timeout=(_CONNECT_SECONDS, _READ_SECONDS)) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise _ServerBusyError(f"HTTP {response.status_code}")
        _check_status(uri, response.status_code)
        with writing(path):
            file = path.open("wb")
        with file:
            for chunk in response.iter_content(2**20):
                with writing(path):
                    file.write(chunk)


def _check_status(uri: str, status: int) -> None:
    if status in (404, 410):
        raise ConfigurationError(f"{redact(uri)} does not exist (HTTP {status})", remedy="Check dataset_uri.")
    if status >= 400:
        raise StorageError(f"{redact(uri)} was refused (HTTP {status})", remedy="Check that the address is readable.")
