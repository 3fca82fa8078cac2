# distcls in a container: what it needs beside the base image's torch, in locked versions, for any user.
#
#   docker build -t distcls .                                             # on NVIDIA's image, as launch/ngc.sh does
#   docker build -t distcls --build-arg BASE_IMAGE=python:3.12-slim .     # on a plain one: torch is added
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD/runs:/workspace/runs" distcls -c /opt/distcls/configs/digits.yaml
#
# The words after the image's name are those of launch/node.sh and distcls train. Without a folder for /workspace/runs
# (make it first, or it is root's), the run is deleted with the container.
#
# The target `serve` is another image, which answers requests with a trained model (launch/serve/README.md):
#
#   docker build -t distcls-serve --target serve .
#   docker run --rm --read-only --tmpfs /tmp -p 8000:8000 -v "$PWD/runs/flowers:/model:ro" distcls-serve
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:25.12-py3
ARG SERVE_BASE=python:3.12-slim

FROM ${SERVE_BASE} AS serve

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="distcls-serve" \
      org.opencontainers.image.description="Answer requests with an image classifier" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# PyTorch's own index has builds for CPUs, without the gigabytes of CUDA. TORCH_INDEX= (empty) takes the locked ones
# with CUDA from the package index, for a base and a machine with a GPU. A base that has torch keeps it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements/ /opt/distcls/requirements/
WORKDIR /opt/distcls/requirements
# hadolint ignore=DL3013 # the files hold versions
RUN set -eu; \
    pip_install() { PIP_CONSTRAINT='' PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
        --no-cache-dir --quiet "$@"; }; \
    if python3 -c 'import torch' 2>/dev/null; then :; \
    elif [ -z "$TORCH_INDEX" ]; then pip_install --no-deps --require-hashes --requirement torch.lock; \
    else \
        sed -n 's/^\(torch\|torchvision\)==\([^ ]*\).*/\1==\2/p' torch.lock >/tmp/torch.txt; \
        pip_install --index-url "$TORCH_INDEX" --requirement /tmp/torch.txt; rm /tmp/torch.txt; \
    fi; \
    pip_install --no-deps --require-hashes --requirement serve.lock; \
    python3 -c 'import torch, torchvision'

COPY distcls/ /opt/distcls/distcls/
COPY launch/serve/serve.sh /opt/distcls/launch/serve/serve.sh
RUN set -eu; printf '#!/bin/sh\nexec python3 -m distcls "$@"\n' >/usr/local/bin/distcls && chmod 755 /usr/local/bin/distcls && \
    PYTHONPATH=/opt/distcls distcls --version && python3 -m compileall -q /opt/distcls/distcls

# Nothing is written outside of /tmp, so the root file system may be read-only.
ENV PYTHONPATH=/opt/distcls \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=distcls
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python3", "-c", "import os, urllib.request; \
urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('AIP_HTTP_PORT', '8000') + '/healthz', timeout=4)"]
ENTRYPOINT ["/opt/distcls/launch/serve/serve.sh"]

FROM ${BASE_IMAGE}

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="distcls" \
      org.opencontainers.image.description="Train image classifiers from a laptop to a cluster" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# numactl, with which launch/node.sh binds processes to CPUs near their GPU, is left to the base: packages of its system
# are in no lock, and not every base has apt. Without it node.sh says so, and training is a little slower at worst.

# NVIDIA's torch is an alpha version, which sorts below any release: pip would replace it for a requirement that the
# release satisfies. So the locks are installed without looking at requirements, and its versions are compared.
# PIP_CONSTRAINT names a file of NVIDIA's images, with versions of what comes with them.
COPY requirements/ /opt/distcls/requirements/
RUN set -eu; \
    versions() { python3 -c 'from importlib.metadata import distribution as d; \
        print(*(f"{n} {d(n).version} in {d(n).locate_file(str())}" for n in ("torch", "torchvision")))'; }; \
    pip_install() { PIP_CONSTRAINT='' PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
        --no-cache-dir --no-deps --require-hashes --quiet --requirement "/opt/distcls/requirements/$1"; }; \
    python3 -c 'import torch' 2>/dev/null || pip_install torch.lock; \
    before=$(versions); \
    pip_install distcls.lock; \
    after=$(versions); \
    if [ "$before" != "$after" ]; then \
        echo "The base image's torch was replaced. It was: $before. It is: $after." >&2; exit 1; \
    fi; \
    python3 -c 'import torch, torchvision'

COPY distcls/ /opt/distcls/distcls/
COPY launch/ /opt/distcls/launch/
COPY configs/ /opt/distcls/configs/
RUN set -eu; printf '#!/bin/sh\nexec python3 -m distcls "$@"\n' >/usr/local/bin/distcls && chmod 755 /usr/local/bin/distcls && \
    install -d -m 1777 /workspace /workspace/runs && \
    PYTHONPATH=/opt/distcls distcls --version && python3 -m compileall -q /opt/distcls/distcls

# Any user id works (docker run --user): nothing is written at home, and Python need not ask for a user's name.
ENV PYTHONPATH=/opt/distcls \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=distcls \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor
USER 10001:10001
WORKDIR /workspace
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/distcls/launch/node.sh"]
