"""`s3://` by what is installed anyway: Arrow speaks S3, and fsspec wraps it.

s3fs does the same and is used where it is installed. But it asks for one version of the AWS library alone, which other
packages of an environment may not bear, and it would make the servers' image larger.

Keys and place come from the environment, in AWS' own words: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION,
AWS_ENDPOINT_URL; from ~/.aws; or from the machine, as with IRSA and instance profiles.
"""

import importlib.util
import os
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.arrow import ArrowFSWrapper
from pyarrow import fs

SCHEMES = ("s3", "s3a")
_ATTEMPTS = 3
"""Of one request, with pauses that grow: some seconds."""


class ArrowS3(ArrowFSWrapper):  # type: ignore[misc]  # fsspec has no types
    """The object stores that speak S3, as one file system of buckets; there is one for each place that is asked for."""

    def __init__(self, endpoint: str = "", region: str = "", **options: Any) -> None:
        place = urlsplit(endpoint)
        made = fs.S3FileSystem(
            region=region or None,
            scheme=place.scheme or "https",
            endpoint_override=place.netloc or None,
            connect_timeout=10,
            request_timeout=60,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        )
        super().__init__(made, **options)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        """fsspec keeps one file system for each of these."""
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        return {"endpoint": endpoint, "region": region if region or endpoint else _region_of(urlsplit(path).netloc)}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        """An object's name may hold `?` and `#`."""
        scheme, found, rest = path.partition("://")
        return (rest if found and scheme in SCHEMES else path).rstrip("/")

    def unstrip_protocol(self, name: str) -> str:
        """The URL of an object."""
        return f"s3://{self._strip_protocol(name)}"


@cache
def _region_of(bucket: str) -> str:
    """Where AWS has the bucket; empty: it does not say, and the request that follows has the reason."""
    try:
        return str(fs.resolve_s3_region(bucket))
    except (OSError, ValueError):
        return ""


def register() -> None:
    """Let fsspec open `s3://` in this way, unless s3fs is there."""
    if importlib.util.find_spec("s3fs") is None:
        for scheme in SCHEMES:
            fsspec.register_implementation(scheme, ArrowS3, clobber=True)
