# Hallmark on vLLM's own image for CUDA, as a node or as a receiver. None of vLLM's packages is replaced.
# Build it from the repository's root:
#   docker build --file deploy/docker/cuda.Dockerfile --tag hallmark:0.1.0 .
#   buildah bud --format docker --file deploy/docker/cuda.Dockerfile --tag hallmark:0.1.0 .
# buildah and podman need --format docker: images in OCI's own format have no health check.
# We had not vLLM's image: buildah 1.28.2 built this on a stand-in, the packages of vLLM 0.32.0 for CPUs on Debian 12.
# No GPU has run it.

# Hallmark is tested with 0.26 to 0.33.
ARG VLLM_VERSION=0.32.0

FROM docker.io/vllm/vllm-openai:v${VLLM_VERSION} AS build

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY kernels kernels
COPY poc poc
COPY server server

# setuptools is the image's own: vLLM depends on it.
RUN python3 -m pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation \
        --wheel-dir /dist .


FROM docker.io/vllm/vllm-openai:v${VLLM_VERSION}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# before.txt: what vLLM's image has. It constrains the installation, so nothing of it can be replaced.
# missing.txt: the versions that Hallmark is tested with, for what the image does not have.
# The build ends here where a package of the image has changed, or the command cannot start.
WORKDIR /tmp/hallmark
COPY requirements/cpu.txt tested.txt
COPY --from=build /dist ./
RUN uv pip list --system --format=freeze | sort > before.txt \
    && awk -F '==' '{name = tolower($1); gsub(/[-_.]+/, "-", name)} \
            NR == FNR {has[name]; next} !/^#/ && !(name in has)' before.txt tested.txt > missing.txt \
    && uv pip install --system --no-cache --constraint before.txt --constraint missing.txt ./*.whl \
    && uv pip list --system --format=freeze | sort > after.txt \
    && comm -23 before.txt after.txt > replaced.txt \
    && if [ -s replaced.txt ]; then cat replaced.txt; exit 1; fi \
    && hallmark --version \
    && rm -- *

# What is in these folders decides who owns a new volume there.
RUN groupadd --gid 10001 hallmark \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/cache/hallmark \
        --shell /usr/sbin/nologin hallmark \
    && install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/hallmark /var/cache/hallmark

# The home is the cache: what a library writes there unasked is lost without harm.
ENV HOME=/var/cache/hallmark \
    XDG_STATE_HOME=/var/lib \
    XDG_CACHE_HOME=/var/cache/hallmark \
    XDG_CONFIG_HOME=/var/cache/hallmark/config \
    TRITON_CACHE_DIR=/var/cache/hallmark/triton \
    TORCHINDUCTOR_CACHE_DIR=/var/cache/hallmark/torchinductor \
    CUDA_CACHE_PATH=/var/cache/hallmark/cuda \
    HEALTH_PORT=8000

ARG VLLM_VERSION
LABEL org.opencontainers.image.title="Hallmark" \
      org.opencontainers.image.description="Proof of compute for LLM serving: a vLLM server, or a receiver of proofs" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/vllm/vllm-openai:v${VLLM_VERSION}"

USER 10001:10001
WORKDIR /var/lib/hallmark

EXPOSE 8000 8099
VOLUME ["/var/lib/hallmark", "/var/cache/hallmark"]
STOPSIGNAL SIGTERM

# A model may take twenty minutes to load. A receiver listens on another port: set HEALTH_PORT=8099 there.
# http.client asks no proxy, whatever the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20m --retries=3 CMD ["python3", "-I", "-S", "-c", \
    "import http.client as h, os; c = h.HTTPConnection('127.0.0.1', int(os.environ['HEALTH_PORT']), timeout=4); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["hallmark"]
CMD ["--help"]
