# The Ledgerwire server. It carries no PostgreSQL: give it one with DATABASE_URL.
#
#   docker build -t ledgerwire .
#   docker run -p 8080:8080 -e DATABASE_URL=postgresql://… \
#     -v "$PWD/tokens:/run/secrets/tokens:ro" -e LEDGERWIRE_TOKEN_FILE=/run/secrets/tokens ledgerwire
#
# It listens on every interface, so it refuses to start without a token file or an auth file (LEDGERWIRE_AUTH_FILE).
# Its user (10001) must be able to read the file, and others must not.
#
# Debian slim and not Alpine: the locked wheels (uvloop, asyncpg, orjson, msgspec) are built for glibc.

FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
COPY requirements/build.txt requirements/server.txt requirements/
# Nothing is installed that is not in a lock: hashes are required, and no compiler is here to build from source.
RUN python -m venv --without-pip /opt/ledgerwire \
    && python -m pip install --require-hashes --only-binary=:all: -r requirements/build.txt \
    && python -m pip --python /opt/ledgerwire/bin/python install \
        --require-hashes --only-binary=:all: -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY ledger ledger/
COPY gateway gateway/
RUN python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && python -m pip --python /opt/ledgerwire/bin/python install --no-deps --no-index dist/*.whl \
    && /opt/ledgerwire/bin/ledgerwire --help >/dev/null

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="ledgerwire" \
      org.opencontainers.image.description="A WebSocket realtime gateway with a durable task ledger" \
      org.opencontainers.image.licenses="Apache-2.0"
# tini passes signals on, so that `docker stop` drains, and reaps what is orphaned.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/ledgerwire /opt/ledgerwire
ENV PATH=/opt/ledgerwire/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# A number, not a name: Kubernetes' runAsNonRoot can only judge numbers.
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 CMD ["ledgerwire", "healthcheck"]
ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["ledgerwire", "serve", "--host", "0.0.0.0", "--port", "8080"]
