# The one image of swan-serve: `docker run` starts the service, KubeRay starts head and workers from it.
# CPU by default. The CPU build of torch does not live on the default index: pass its index, or a wheel directory, in
# TORCH_PIP_ARGS (deploy/README.md shows both); the GPU build needs nothing but TORCH=cuda.
ARG PYTHON_IMAGE=python:3.11-slim

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cpu
ARG TORCH_PIP_ARGS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev binutils && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY requirements/torch.txt requirements/run.txt requirements/build.txt /src/requirements/
# NOTE: one layer, so that what is deleted is never stored. What goes is used to build, debug or test only: headers,
# test suites, symbols, ray's Java and RLlib. torch_shm_manager stays, `import torch` looks for it.
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install -q --no-compile ${TORCH_PIP_ARGS} -r /src/requirements/torch.txt \
    && if [ "$TORCH" = cpu ] && pip list --format=freeze | grep -qi '^nvidia-'; then \
         echo "this torch is the GPU build: pass TORCH_PIP_ARGS for the CPU one, or TORCH=cuda"; exit 1; fi \
    && pip install -q --no-compile --require-hashes --no-deps -r /src/requirements/run.txt \
    && cd /opt/venv/lib/python3*/site-packages \
    && rm -rf torch/test torch/include torch/share ray/jars ray/rllib caffe2 torchgen/packaged matplotlib/mpl-data/sample_data \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find . -type d \( -path './sympy/*' -o -path './numba/*' -o -path './numpy/*' -o -path './networkx/*' \
         -o -path './matplotlib/*' -o -path './mpmath/*' -o -path './gevent/*' -o -path './greenlet/*' \) -name tests -prune -exec rm -rf {} + \
    && find . -type f \( -name '*.a' -o -name '*.h' -o -name '*.hpp' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' \) -delete \
    && find . -type d -name __pycache__ -prune -exec rm -rf {} + \
    && find llvmlite torch/lib ray numpy -type f -name '*.so*' -size +1M -exec strip --strip-unneeded {} +
COPY pyproject.toml README.md LICENSE /src/
COPY deploy/base/serve-config.yaml /src/deploy/base/serve-config.yaml
COPY swan_runtime /src/swan_runtime
COPY models /src/models
COPY service /src/service
COPY loadtests /src/loadtests
COPY benchmarks /src/benchmarks
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv --system-site-packages /tmp/build && /tmp/build/bin/pip install -q --require-hashes --no-deps -r /src/requirements/build.txt \
    && /tmp/build/bin/pip wheel -q --no-deps --no-build-isolation -w /tmp/wheel /src \
    && pip install -q --no-deps --no-compile /tmp/wheel/*.whl && rm -rf /tmp/build /tmp/wheel
# The kernels for every CPU family, since run time has no compiler; then what a first start would compile and measure.
# Numba serves the CPUs that the native kernels do not know: compiled for the oldest of them, so that it runs on all.
ENV NUMBA_CPU_NAME=x86-64-v2 PYTHONSAFEPATH=1
COPY deploy/image/warm.py /src/warm.py
WORKDIR /tmp
# And what stands in for HAProxy (RAY_SERVE_HAPROXY_BINARY_PATH in deploy/base/ray.env).
RUN python -m swan_runtime.kernels.native && python /src/warm.py /opt/swan/swan-serve \
    && python -c 'from pathlib import Path; from service.launcher.ray_environment import haproxy_environment as write; write(Path("/opt/swan"))' \
    && pip uninstall -q -y pip && chmod -R a+rX /opt/venv /opt/swan

FROM ${PYTHON_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="swan-serve" \
      org.opencontainers.image.description="Adaptive-compute inference serving: gated networks under a load-driven budget" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# bash, wget and grep: KubeRay's worker readiness probe runs them. procps gives Ray `ps`.
RUN apt-get update && apt-get install -y --no-install-recommends bash wget grep procps \
    && rm -rf /var/lib/apt/lists/* \
    && (getent group 1000 || groupadd -g 1000 swan) && (getent passwd 1000 || useradd -u 1000 -g 1000 -d /tmp -M swan)
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/swan /opt/swan
COPY deploy/base/serve-config.yaml /etc/swan/serve-config.yaml
# Caches are read from the image and written to /tmp, the one place that is writable.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/.cache \
    NUMBA_CACHE_DIR=/tmp/.cache/swan-serve/numba \
    NUMBA_CPU_NAME=x86-64-v2 \
    SWAN_IMAGE_CACHE_DIR=/opt/swan/swan-serve \
    RAY_USAGE_STATS_ENABLED=0 \
    RAY_SERVE_ENABLE_HA_PROXY=1 \
    RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
    RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=service.host.shortcut.http_middlewares
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=90s --retries=3 \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8000/v2/health/ready"]
ENTRYPOINT ["swan", "serve", "--config", "/etc/swan/serve-config.yaml", "--host", "0.0.0.0"]
