# The sandbox image, for people who reach Docker Hub. What is in it, and the other way to make it: image/README.md.
FROM debian:trixie-slim AS sandbox
ARG MIRROR=
COPY image/hosts /etc/hosts
COPY image/dpkg.cfg image/install.sh image/inventory.py image/packages.txt image/requirements.txt image/setup.sh /image/
RUN sh /image/install.sh
ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
CMD ["bash"]
