# One image for head, workers and `docker run`. Needs BuildKit; the stages of the other accelerator are not built.
#
#   docker build -t llm-backend .                                   any x86-64 since 2013 (AVX2), or arm64
#   docker build -t llm-backend-cuda --build-arg ACCELERATOR=cuda . NVIDIA GPUs from Turing on
#   ... --build-arg LLAMA_CMAKE_ARGS="-DGGML_AVX2=off -DGGML_FMA=off -DGGML_F16C=off -DGGML_BMI2=off"   older CPUs
#
# Models are not in it: mount them (/models), or a volume at /app/models for the default one, which is fetched at start.
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG CUDA_IMAGE=nvidia/cuda:12.8.1-devel-ubuntu22.04
ARG ACCELERATOR=cpu

FROM ${CUDA_IMAGE} AS cuda

FROM ${BASE_IMAGE} AS toolchain-cpu
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make \
 && rm -rf /var/lib/apt/lists/*
# Not for the machine that builds, but for the ones that run.
ENV CMAKE_ARGS="-DGGML_NATIVE=off"

FROM toolchain-cpu AS toolchain-cuda
COPY --from=cuda /usr/local/cuda/ /usr/local/cuda/
ARG CUDA_ARCHITECTURES="75;80;86;89;90;120"
# The driver's library is not there while building: its stub is linked, the node's own is loaded.
ENV PATH=/usr/local/cuda/bin:$PATH \
    LIBRARY_PATH=/usr/local/cuda/lib64/stubs \
    CMAKE_ARGS="-DGGML_NATIVE=off -DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}"
RUN mkdir /opt/cuda-runtime \
 && cp -L /usr/local/cuda/lib64/libcudart.so.12 /usr/local/cuda/lib64/libcublas.so.12 \
    /usr/local/cuda/lib64/libcublasLt.so.12 /opt/cuda-runtime/

# hadolint ignore=DL3006
FROM toolchain-${ACCELERATOR} AS build
ARG LLAMA_CMAKE_ARGS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY requirements-build.lock requirements.lock ./
# Every file that pip takes, also those that compile llama.cpp, has its hash in a lock file; only llama.cpp is compiled.
RUN python3 -m venv tools \
 && tools/bin/pip install --require-hashes --only-binary :all: -r requirements-build.lock
RUN . tools/bin/activate \
 && CMAKE_ARGS="$CMAKE_ARGS $LLAMA_CMAKE_ARGS" pip wheel --wheel-dir wheels --require-hashes --no-build-isolation \
    --only-binary :all: --no-binary llama-cpp-python -r requirements.lock
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-index --no-deps wheels/*.whl

FROM ${BASE_IMAGE} AS runtime-cpu
# bash, wget and grep: KubeRay's probes run in them. libgomp: llama.cpp's threads.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends bash grep libgomp1 wget \
 && rm -rf /var/lib/apt/lists/*

FROM runtime-cpu AS runtime-cuda
COPY --from=toolchain-cuda /opt/cuda-runtime/ /usr/local/lib/
RUN ldconfig
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility

# hadolint ignore=DL3006
FROM runtime-${ACCELERATOR}
RUN useradd --uid 1000 --gid 100 --create-home --shell /bin/bash llm \
 && install -d -o 1000 -g 100 /data /app/models \
 && printf '#!/bin/sh\nexec python -m deployments.cli "$@"\n' > /usr/local/bin/llm-backend \
 && chmod +x /usr/local/bin/llm-backend
COPY --from=build /opt/venv /opt/venv
# KubeRay starts no login shell: what must be found is found through these.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONUNBUFFERED=1 \
    LLM_BACKEND_DATA_DIR=/data \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /app
COPY serve_config.yaml ./
COPY config config
COPY serve_app serve_app
COPY deployments deployments
RUN python -m compileall -q config serve_app deployments
USER 1000:100
EXPOSE 8000
ARG VERSION=0.0.0
ARG REVISION=""
LABEL org.opencontainers.image.title="llm-backend" \
      org.opencontainers.image.description="An OpenAI-compatible LLM backend, as a Ray Serve deployment graph." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
CMD ["llm-backend", "run"]
