"""Where the object store is, and boto3's client of it: nothing else imports boto3."""

from __future__ import annotations

import dataclasses
from typing import Any

from orochi import settings as process_settings

_POOL = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """How to reach a store; times in seconds. Credentials that are not given are found by boto3's own chain."""

    bucket: str
    endpoint: str | None = None
    region: str = "us-east-1"
    connect_timeout: float = 5.0
    read_timeout: float = 30.0
    attempts: int = 6
    encryption: str | None = None  # 'AES256' or 'aws:kms'
    kms_key: str | None = None
    frozen_class: str = "GLACIER"
    access_key: str | None = None
    secret_key: str | None = dataclasses.field(default=None, repr=False)

    @classmethod
    def of(cls, settings: process_settings.Settings) -> Config | None:
        """What the settings say, or None if they name no bucket."""
        if settings.s3_bucket is None:
            return None
        return cls(
            bucket=settings.s3_bucket,
            endpoint=settings.s3_endpoint,
            region=settings.s3_region,
            read_timeout=settings.s3_timeout,
            attempts=settings.s3_attempts,
            encryption=settings.s3_encryption,
            kms_key=settings.s3_kms_key,
            frozen_class=settings.s3_frozen_class,
        )


def connect(config: Config) -> Any:
    """A boto3 client that leaves trying again to us."""
    import boto3  # a quarter of a second, for those that read objects
    from botocore import config as boto_config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=config.endpoint,
        region_name=config.region,
        aws_access_key_id=config.access_key,
        aws_secret_access_key=config.secret_key,
        config=boto_config.Config(
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            retries={"total_max_attempts": 1},
            max_pool_connections=_POOL,
            s3={"addressing_style": "path" if config.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
