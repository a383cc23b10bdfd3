# One image for gateway, workers, beat, Flower and migrations: `docker run orochi <command>`.
FROM python:3.11-slim

RUN groupadd --gid 10001 orochi \
 && useradd --uid 10001 --gid orochi --no-create-home --home-dir /var/lib/orochi orochi \
 && mkdir -p /var/lib/orochi /var/cache/orochi \
 && chown orochi:orochi /var/lib/orochi /var/cache/orochi

WORKDIR /usr/src/orochi
COPY pyproject.toml README.md LICENSE beat_schedule.py ./
COPY orochi orochi
COPY workers workers
RUN pip install --no-cache-dir . && rm -rf build ./*.egg-info

ENV OROCHI_DATA_DIR=/var/lib/orochi \
    NUMBA_CACHE_DIR=/var/cache/orochi \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

USER orochi
WORKDIR /var/lib/orochi
VOLUME /var/lib/orochi
EXPOSE 6432
ENTRYPOINT ["orochi"]
CMD ["gateway"]
