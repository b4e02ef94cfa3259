# One image for nexus, spores and Flower: `make image`, or `docker build -t venom-hive:0.1.0 .`.
#
# An application of your own goes on top, and HIVE_APP and HIVE_IMAGE name it:
#
#   FROM venom-hive:0.1.0
#   COPY shop /app/shop
#
# Any base will do that has a Python of 3.11 or newer with venv, and useradd.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS dependencies
WORKDIR /build
RUN python3 -m venv /opt/hive
# With a folder of wheels, which `make wheels` gathers, no network is used. Either way everything
# has the hash that the locks name.
COPY requirements-build.lock requirements.lock wheels* ./
RUN set -e; \
    if ls ./*.whl >/dev/null 2>&1; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=/build; fi; \
    pip="/opt/hive/bin/python -m pip --disable-pip-version-check install -q --no-cache-dir"; \
    $pip --require-hashes -r requirements-build.lock; \
    $pip --require-hashes --no-build-isolation --no-compile -r requirements.lock; \
    /opt/hive/bin/python -m compileall -q -j 0 /opt/hive

FROM dependencies AS build
COPY . .
RUN /opt/hive/bin/python -m pip --disable-pip-version-check wheel -q --no-index --no-deps \
    --no-build-isolation --wheel-dir /build/made .

FROM ${BASE} AS runtime
# The user may write to HIVE_HOME and /tmp; a base has more places where everybody may.
RUN set -e; \
    useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/hive hive; \
    install -d -o hive -g hive -m 700 /var/lib/hive; \
    install -d /app; \
    find / -xdev -type d -perm -0002 ! -path /tmp ! -path '/proc*' -exec chmod o-w {} +
COPY --from=dependencies /opt/hive /opt/hive
ENV PATH=/opt/hive/bin:$PATH HIVE_HOME=/var/lib/hive

FROM runtime
COPY --from=build /build/made /opt/hive/made
RUN set -e; \
    pip="python3 -m pip --disable-pip-version-check"; \
    $pip install -q --no-cache-dir --no-index --no-deps /opt/hive/made/*.whl; \
    rm -r /opt/hive/made; \
    $pip check
# Where an application's modules are: `hive` looks for them in its working directory.
WORKDIR /app
USER 10001:10001
# A supervisor reaps its own child only; dumb-init reaps what that one leaves behind. It passes
# signals on to the supervisor alone, which tells its worker what to do.
ENTRYPOINT ["dumb-init", "--single-child", "--", "hive"]
CMD ["--help"]
