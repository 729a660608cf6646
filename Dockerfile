# Two images from one source: `service` is the API and has no torch, `worker` runs the jobs.
#
#   docker build --target service --tag taskslim-service .
#   docker build --target worker --tag taskslim-worker .
#
# TORCH_INDEX is an additional package index, for a build of torch other than the platform's default:
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu      small, no CUDA libraries
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130    CUDA 13; the driver must support it

FROM python:3.11-slim-bookworm AS python
ENV PATH=/opt/taskslim/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1


# Dependencies are installed with an empty project first: a change of the source then reuses their layer.
FROM python AS build
WORKDIR /src
RUN python -m venv /opt/taskslim && mkdir service worker && touch README.md LICENSE service/__init__.py worker/__init__.py
COPY pyproject.toml constraints.txt ./


FROM build AS build-service
RUN pip install --constraint constraints.txt ".[service]"
COPY . .
RUN pip install --no-deps --force-reinstall .
RUN python -c "from importlib.util import find_spec as f; exit(any(map(f, ('torch', 'transformers'))) and 'torch is here')"


FROM build AS build-worker
ARG TORCH_INDEX=""
RUN pip install --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} torch==2.13.0
RUN pip install --constraint constraints.txt ".[worker,onnx,quantise]"
COPY . .
RUN pip install --no-deps --force-reinstall .
RUN python -c "from importlib.util import find_spec as f; exit(f('fastapi') and 'fastapi is here')"


FROM python AS runtime
RUN useradd --uid 10001 --user-group --home-dir /var/lib/taskslim --create-home --shell /usr/sbin/nologin taskslim
ENV HOME=/var/lib/taskslim \
    SLIM_STATE=/var/lib/taskslim
WORKDIR /var/lib/taskslim
USER 10001:10001


FROM runtime AS service
COPY --from=build-service /opt/taskslim /opt/taskslim
ENV SLIM_HOST=0.0.0.0
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD ["taskslim", "api"]


FROM runtime AS worker
COPY --from=build-worker /opt/taskslim /opt/taskslim
ENV HF_HOME=/var/lib/taskslim/huggingface
# A worker is healthy while it is registered in Redis. Its name starts with the host name.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import socket; from service.infrastructure.redis_client import connect; from service.infrastructure.worker_registry import live_workers; from service.settings import Settings; redis = connect(Settings().redis_url, retries=0); exit(not any(name.startswith(socket.gethostname() + '-') for name in live_workers(redis)))"]
CMD ["taskslim", "worker"]
