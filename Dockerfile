# One image for gateway, workers, beat, Flower and migrations: `docker run orochi <command>`.
FROM python:3.11-slim

RUN groupadd --gid 10001 orochi \
 && useradd --uid 10001 --gid orochi --no-create-home --home-dir /var/lib/orochi orochi \
 && mkdir -p /var/lib/orochi /var/cache/orochi \
 && chown orochi:orochi /var/lib/orochi /var/cache/orochi

# PIP_BREAK_SYSTEM_PACKAGES: some builds of Python call themselves externally managed; this image is ours.
ENV OROCHI_DATA_DIR=/var/lib/orochi \
    NUMBA_CACHE_DIR=/var/cache/orochi \
    PIP_BREAK_SYSTEM_PACKAGES=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PYTHONUNBUFFERED=1

WORKDIR /usr/src/orochi
COPY pyproject.toml README.md LICENSE beat_schedule.py ./
COPY orochi orochi
COPY workers workers
RUN python3 -m pip install --no-cache-dir . && rm -rf build ./*.egg-info

USER orochi
WORKDIR /var/lib/orochi
# Compiled loops, so that no container compiles when it starts; on another CPU it does, once.
RUN python3 -m orochi.engine.warm
EXPOSE 6432
ENTRYPOINT ["orochi"]
CMD ["gateway"]
