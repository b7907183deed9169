"""What a store's refusals mean and who can mend them, by the code that the store answers with."""

from __future__ import annotations

from collections.abc import Mapping

_SECRET = "In a pipeline it comes from the secret that `storage_secret_name` names."
_GRANT = "Grant it read, write, list and delete on the bucket, or use another identity."
_CREDENTIALS = (
    "Set KFP_LLM_BATCH_S3_ACCESS_KEY and KFP_LLM_BATCH_S3_SECRET_KEY, or credentials of the AWS chain. " + _SECRET
)
_REGION = ("expects another region", "Set KFP_LLM_BATCH_S3_REGION to the bucket's region.")
_EXPIRED = ("finds the credentials expired", "Renew them; then run again.")
_FULL = ("has no space left", "Free some space, or choose another bucket.")
_BUCKET = ("has no such bucket", "Create the bucket, or correct the address.")

S3_REFUSALS: Mapping[str, tuple[str, str]] = {
    "InvalidAccessKeyId": ("does not know the access key", f"Correct KFP_LLM_BATCH_S3_ACCESS_KEY. {_SECRET}"),
    "SignatureDoesNotMatch": (
        "finds the secret key wrong",
        f"Correct KFP_LLM_BATCH_S3_SECRET_KEY; if it is right, the region or a proxy is not. {_SECRET}",
    ),
    "AccessDenied": ("denies this identity the access", f"{_GRANT} {_CREDENTIALS}"),
    "NoSuchBucket": _BUCKET,
    "ExpiredToken": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestTimeTooSkewed": ("finds this machine's clock wrong", "Set the clock; then run again."),
    "PermanentRedirect": _REGION,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "QuotaExceeded": _FULL,
    "XMinioStorageFull": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "InsufficientStorage": _FULL,
}

GCS_REFUSALS: Mapping[int, tuple[str, str]] = {
    401: (
        "does not accept the credentials",
        "Check GOOGLE_APPLICATION_CREDENTIALS, or the service account of the pod (workload identity).",
    ),
    403: ("denies this identity the access", _GRANT),
    404: _BUCKET,
    507: _FULL,
}

NO_S3_CREDENTIALS = _CREDENTIALS
NO_GCS_CREDENTIALS = (
    "Set GOOGLE_APPLICATION_CREDENTIALS to a key file, give the pod's service account access (workload identity), "
    "or run `gcloud auth application-default login`."
)
UNREACHABLE_S3 = "Check KFP_LLM_BATCH_S3_ENDPOINT (http:// or https://), the network and that the store runs."
UNREACHABLE_GCS = "Check the network, STORAGE_EMULATOR_HOST if set, and that the store runs."
