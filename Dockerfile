# embody with everything pinned, on NVIDIA GPUs or none.
#
#   docker build -t embody:latest .
#   docker run -it --gpus all -v "$(pwd)":/app embody:latest       (without --gpus: on the CPU)
#
# The environment is in /opt/embody, so that mounting a checkout over /app hides nothing: the commands then run the code
# that is mounted. The first request had `-v (PWD):/app embody:v2`: `(PWD)` is no shell's way to name the folder, and the
# image it builds is tagged `latest`.
#
# UNVERIFIED: the base image could not be pulled where this was written, there being no Docker daemon (docs/simulator.md
# says what was checked). It only has to let the container see the driver: torch's own packages bring CUDA.
FROM nvidia/cuda:12.8.1-base-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive \
    LANG=C.UTF-8 \
    PATH=/opt/embody/bin:$PATH

# gcc and the headers are for torch.compile. A release's own archive holds one version of each package.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev make python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/*

COPY requirements.txt /opt/requirements.txt
RUN python3.12 -m venv /opt/embody \
    && /opt/embody/bin/pip install --no-cache-dir -r /opt/requirements.txt

WORKDIR /app
COPY . /app
RUN /opt/embody/bin/pip install --no-cache-dir --no-deps -e /app

CMD ["bash"]
