# The program and everything for training, for clusters and pods.
#
#   docker build --build-arg ACCELERATOR=cuda12 --tag seemore-jax .     # cpu (the default), cuda12 or tpu
#   docker run --rm --volume "$PWD:/data" seemore-jax upscale photo.png
#   docker run --rm --gpus all --volume "$PWD:/data" seemore-jax train --config=seemore_t_x4 --workdir=run

# The kernels are compiled here, so that the image that runs needs no compiler.
FROM python:3.13-slim AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update && apt-get install --yes --no-install-recommends g++=4:* && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.13-slim
ARG ACCELERATOR=cpu
COPY constraints/python3.12.txt /tmp/constraints.txt
COPY --from=build /wheels /wheels
# gcsfs reads and writes gs://. JAX's name of its extra for each accelerator; for a CPU it needs none.
RUN set -- /wheels/*.whl \
  && pip install --no-cache-dir --constraint /tmp/constraints.txt "$1[train]" gcsfs==2026.* \
  && case "$ACCELERATOR" in \
       cpu) ;; \
       cuda12 | tpu) pip install --no-cache-dir --constraint /tmp/constraints.txt "jax[$ACCELERATOR]" ;; \
       *) echo "ACCELERATOR=$ACCELERATOR is none of cpu, cuda12, tpu" >&2; exit 1 ;; \
     esac \
  && rm -rf /wheels /tmp/constraints.txt
WORKDIR /data
ENTRYPOINT ["seemore-jax"]
