# docker build -t medsam-adapt . && docker run --rm -v "$PWD:/work" medsam-adapt demo
# With an NVIDIA card: docker run --gpus all --shm-size 2g ...
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    MEDSAM_ADAPT_HOME=/home/user/.cache/medsam-adapt

COPY . /source
RUN pip install "/source[dicom,export]" \
    && rm -rf /source \
    && useradd --create-home --uid 1000 user

USER 1000
WORKDIR /work
ENTRYPOINT ["medsam-adapt"]
CMD ["--help"]
