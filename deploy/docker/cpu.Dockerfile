# Hallmark with vLLM for CPUs: for trying it out, for tests, and for a receiver without a GPU.
# Build it from the repository's root:
#   docker build --file deploy/docker/cpu.Dockerfile --tag hallmark:0.1.0-cpu .
#   buildah bud --format docker --file deploy/docker/cpu.Dockerfile --tag hallmark:0.1.0-cpu .
# buildah and podman need --format docker: images in OCI's own format have no health check.
# Built by buildah 1.28.2 and run by podman 4.3.1, as node and as receiver, on a Debian 12 that debootstrap made.
# We had neither Docker Hub's base image nor PyTorch's index: the same build of PyTorch came from another one.

FROM docker.io/library/debian:bookworm-slim AS build

# PyTorch's own index has builds for CPUs. The one on PyPI is for CUDA and has several gigabytes more.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Debian keeps no older versions of a package, so a pinned one cannot be built again after its next update.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY requirements/cpu.txt deploy/docker/cpu.leave-out.txt ./

# The pinned list without the tools of the tests. `+cpu` lets no build for CUDA in, whatever the indexes have.
# Nothing is compiled here: a package without a wheel ends the build.
RUN python3 -m venv /opt/hallmark \
    && grep --invert-match --line-regexp --extended-regexp --file=cpu.leave-out.txt cpu.txt \
        | sed 's/^torch==.*/&+cpu/' > run.txt \
    && /opt/hallmark/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps \
        --only-binary=:all: --extra-index-url "${TORCH_INDEX}" --requirement run.txt

COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY poc poc
COPY server server

RUN /opt/hallmark/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .


FROM docker.io/library/debian:bookworm-slim

# libnuma1: vLLM's extension is linked to it.
# g++ and Python's headers: a server without --enforce-eager compiles its model by them when it starts.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ libnuma1 python3 python3-dev \
    && rm -rf /var/lib/apt/lists/*

COPY --from=build /opt/hallmark /opt/hallmark

# What is in these folders decides who owns a new volume there.
RUN groupadd --gid 10001 hallmark \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/hallmark \
        --shell /usr/sbin/nologin hallmark \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/hallmark /var/cache/hallmark

# The home is the cache: what a library writes there unasked is lost without harm.
ENV PATH=/opt/hallmark/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/var/cache/hallmark \
    XDG_STATE_HOME=/var/lib \
    XDG_CACHE_HOME=/var/cache/hallmark \
    XDG_CONFIG_HOME=/var/cache/hallmark/config \
    TRITON_CACHE_DIR=/var/cache/hallmark/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/hallmark/torchinductor \
    HEALTH_PORT=8000

USER 10001:10001
WORKDIR /var/lib/hallmark

# The build ends here where the command cannot start, or PyTorch is not the build for CPUs.
RUN hallmark --version \
    && python3 -c "import torch; raise SystemExit(torch.version.cuda is not None)"

LABEL org.opencontainers.image.title="Hallmark (CPU)" \
      org.opencontainers.image.description="Proof of compute for LLM serving: a vLLM server, or a receiver of proofs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"

EXPOSE 8000 8099
VOLUME ["/var/lib/hallmark", "/var/cache/hallmark"]
STOPSIGNAL SIGTERM

# A model may take twenty minutes to load. A receiver listens on another port: set HEALTH_PORT=8099 there.
# http.client asks no proxy, whatever the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20m --retries=3 CMD ["python3", "-I", "-S", "-c", \
    "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ['HEALTH_PORT']), timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["hallmark"]
CMD ["--help"]
