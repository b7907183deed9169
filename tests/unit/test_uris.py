import pytest

from kfp_llm_batch.errors import ConfigurationError
from kfp_llm_batch.storage.object_store import open_store
from kfp_llm_batch.storage.protocol import check_key
from kfp_llm_batch.storage.uris import STORE_SCHEMES, join_uri, redact, split_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("data/rows.jsonl", ("file", "data/rows.jsonl")),
        ("/data/rows:1.jsonl", ("file", "/data/rows:1.jsonl")),
        ("file:///data/a%20b.csv", ("file", "/data/a b.csv")),
        ("file://localhost/data", ("file", "/data")),
        ("FILE:///data", ("file", "/data")),
        ("s3://bucket/key/", ("s3", "bucket/key/")),
        ("minio://bucket/key", ("s3", "bucket/key")),
        ("S3://Bucket/Key", ("s3", "Bucket/Key")),
        ("gs://bucket", ("gs", "bucket")),
        ("hf://org/name", ("hf", "org/name")),
        ("https://host/file.csv?token=1", ("https", "host/file.csv?token=1")),
    ],
)
def test_split(uri, expected):
    assert split_uri(uri) == expected


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", ["empty", "s3://..."]),
        ("   ", ["empty"]),
        ("ftp://host/x", ["'ftp'", "s3", "a plain path"]),
        ("s4://bucket/x", ["'s4'", "s3, minio"]),
        ("s3:/bucket/x", ["two slashes", "s3://"]),
        ("s3:bucket", ["two slashes"]),
        ("https:/user:hush@host/x?token=hush", ["two slashes", "Write https://host/x;"]),
        ("s3:AKIA:hush@bucket", ["two slashes", "Write s3://bucket;"]),
        ("s3:/AKIA:sec/hush@bucket/x", ["two slashes", "Write s3://bucket/x;"]),
        ("file://user:hush@host/x", ["absolute"]),
        ("s3://", ["names nothing"]),
        ("gs:///", ["names nothing"]),
        ("file://relative/path", ["absolute"]),
        ("s3://key:secret@bucket/x", ["credentials", "s3://bucket/x"]),
    ],
)
def test_bad_addresses_are_explained(uri, words):
    with pytest.raises(ConfigurationError) as caught:
        split_uri(uri)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert not any(word in message for word in ("secret@", "hush"))


def test_schemes_that_the_caller_cannot_use_are_refused():
    with pytest.raises(ConfigurationError, match="Received: 'hf'"):
        split_uri("hf://org/name", STORE_SCHEMES)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://user:password@host/a?X-Amz-Signature=1", "https://host/a"),
        ("https://host/a?bare-token", "https://host/a"),
        ("s3://key:secret@bucket/a?region=x", "s3://bucket/a"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("s3://key:sec@ret@bucket/a", "s3://bucket/a"),
        ("https://user:pass@word@host/a", "https://host/a"),
        ("https://host:8080/me@home", "https://host:8080/me@home"),
        ("s3:key:secret@bucket/a", "s3://bucket/a"),
        ("https:/user:password@host/a?token=x", "https://host/a"),
        ("s3://bucket/part-?.jsonl", "s3://bucket/part-?.jsonl"),
        ("s3://bucket/me@home/x", "s3://bucket/me@home/x"),
        ("/data/part-?.jsonl", "/data/part-?.jsonl"),
        ("file:///data/a?b=c", "file:///data/a?b=c"),
    ],
)
def test_redact(uri, shown):
    assert redact(uri) == shown


def test_join():
    assert join_uri("s3://bucket/a/", "/parts/x") == "s3://bucket/a/parts/x"
    assert join_uri("folder", "") == "folder"


@pytest.mark.parametrize(
    "address",
    ["results/a//b", "results//lead", "results/a/./b", "results/a/../c", "results/..", "results/a?b=c", "r?x"],
)
@pytest.mark.parametrize("scheme", ["s3", "minio", "gs"])
def test_names_that_a_store_reads_differently_are_refused(scheme, address):
    with pytest.raises(ConfigurationError, match="which a name in a store may not"):
        open_store(f"{scheme}://{address}")


@pytest.mark.parametrize("address", ["results", "results/", "results/a/", "results/a.b/..c/ \u00e4#+*"])
def test_other_names_in_a_store_are_taken(address):
    assert open_store(f"s3://{address}").uri == f"s3://{address}".rstrip("/")


@pytest.mark.parametrize("key", ["", "/x", "..", "a/../b", "a/..", ".", "a/.", "a/./b", "a\0b"])
def test_keys_that_are_no_names(key):
    with pytest.raises(ConfigurationError, match="under the store's root"):
        check_key(key)


@pytest.mark.parametrize("key", ["a", ".hidden", "a..b/...", "a/b c"])
def test_keys(key):
    assert check_key(key) == key
