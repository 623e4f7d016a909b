# `hamlearning serve` in a container; the model is mounted at /model.
#
#   docker build -t hamlearning .
#   docker run --rm -p 8000:8000 --shm-size 1g -v "$PWD/outputs/demo:/model:ro" hamlearning
#
# Weights and pictures stay outside of the image: see .dockerignore.
FROM python:3.11-slim

WORKDIR /app
ENV PYTHONUNBUFFERED=1 HF_HOME=/tmp/huggingface

# PyTorch first, as it is large and seldom changes; its wheels from PyPI run on CPUs and on NVIDIA's GPUs.
RUN python -m pip install --no-cache-dir --upgrade pip
RUN python -m pip install --no-cache-dir "torch>=2.14.1" "torchvision>=0.29.1"

COPY pyproject.toml README.md LICENSE MANIFEST.in ./
COPY *.py ./
COPY hamlearning ./hamlearning
RUN python -m pip install --no-cache-dir ".[serve,export]"

# A model's code is run, and requests come from strangers: not as root.
RUN useradd --create-home server
USER server
WORKDIR /tmp

EXPOSE 8000
CMD ["hamlearning", "serve", "/model", "--host", "0.0.0.0", "--port", "8000"]
