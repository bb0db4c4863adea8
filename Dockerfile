# CPU:   docker build -t cnn-modules .
# CUDA:  docker build -t cnn-modules --build-arg BASE=pytorch/pytorch:2.6.0-cuda12.4-cudnn9-runtime .
#        docker run --gpus all ... cnn-modules
# Run:   docker run --rm -v "$PWD/data:/data" cnn-modules train --model simcnn_x0_25 --dataset digits
#
# On the CPU, pip takes the default build of torch, with gigabytes of CUDA libraries. For PyTorch's smaller CPU build, pass
# the address of its index (see "Get started" on pytorch.org) as --build-arg TORCH_INDEX=ADDRESS.
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -c "import torch, torchvision" 2>/dev/null \
    || pip install --no-cache-dir torch torchvision ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
WORKDIR /toolkit
COPY . .
RUN pip install --no-cache-dir -e ".[onnx,safetensors,timm]"
# Everything is written below /data, with what this machine remembers of the networks that ran on it.
ENV CNNMOD_ROOT_DIR=/data CNNMOD_CONFIG_DIR=/data/config
ENTRYPOINT ["cnn-modules"]
