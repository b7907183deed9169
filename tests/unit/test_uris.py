import pytest

from kfp_llm_batch.errors import ConfigurationError
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
    assert "secret@" not in message


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
