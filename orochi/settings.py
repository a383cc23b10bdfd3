"""All settings of all processes, read from `OROCHI_*` variables.

Every field here is documented in `.env.example`; `tests/meta` holds the two together.
"""

from __future__ import annotations

import functools
import pathlib

import pydantic
import pydantic_settings


class Settings(pydantic_settings.BaseSettings):
    """Process settings; sizes in the unit the name ends with, times in seconds."""

    model_config = pydantic_settings.SettingsConfigDict(env_prefix="OROCHI_", extra="ignore")

    coordinator_dsn: str = "postgresql://orochi@127.0.0.1:5432/orochi"
    redis_url: str = "redis://127.0.0.1:6379/0"
    node_user: str | None = None
    node_password: pydantic.SecretStr | None = None
    gateway_host: str = "127.0.0.1"
    gateway_port: int = 6432
    gateway_address: str | None = None
    gateway_max_connections: int = 500
    gateway_auth_timeout: float = 60.0
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"
    tls_cert: pathlib.Path | None = None
    tls_key: pathlib.Path | None = None
    data_dir: pathlib.Path = pathlib.Path("./orochi-data")
    node_id: int | None = None
    ready_file: pathlib.Path | None = None
    parallel_workers: int = 1
    stripe_threads: int = 0
    default_shard_count: int = 32
    fragment_lease: float = 3.0
    fragment_attempts: int = 3
    fragment_timeout: float = 3600.0
    inline_result_bytes: int = 4 << 20
    small_query_bytes: int = 512 << 10
    small_query_column_chunks: int = 512
    kept_plans: int = 256
    cache_size_mb: int = 256
    scan_cache_mb: int = 768
    gateway_cache_mb: int = 64
    node_pool_size: int = 20
    prepared_per_connection: int = 500
    recovery_interval: float = 2.0
    maintenance_nice: int = 10
    recompress_share: float = 0.2
    retired_grace: float = 60.0
    s3_endpoint: str | None = None
    s3_bucket: str | None = None
    s3_region: str = "us-east-1"
    s3_timeout: float = 30.0
    s3_attempts: int = 6
    s3_encryption: str | None = None
    s3_kms_key: str | None = None
    s3_frozen_class: str = "GLACIER"
    restore_days: int = 3
    orphan_grace: float = 3600.0
    log_level: str = "info"
    log_json: bool = False

    @property
    def stripe_dir(self) -> pathlib.Path:
        """Where this node's worker keeps stripe files."""
        return self.data_dir / "stripes"


@functools.lru_cache(maxsize=1)
def get() -> Settings:
    """The process's settings, read once."""
    return Settings()
