# The server: MCP over HTTP in a container. packaging/compose.yaml runs it.
FROM golang:1.26-trixie AS build
WORKDIR /src
COPY . .
ARG VERSION=dev
RUN make guests && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/dormouse ./cmd/dormouse

FROM scratch AS server
COPY --from=build /out/dormouse /dormouse
ENV DORMOUSE_HOME=/var/lib/dormouse TMPDIR=/var/lib/dormouse
VOLUME /var/lib/dormouse
EXPOSE 8765
ENTRYPOINT ["/dormouse"]
# The server listens on all addresses of the container. The user decides which ports of the container are published.
CMD ["serve", "--listen=0.0.0.0:8765", "--insecure-http"]

# The sandbox image, for people who reach Docker Hub. What is in it, and the other way to make it: image/README.md.
FROM debian:trixie-slim AS sandbox
ARG MIRROR=
COPY image/hosts /etc/hosts
COPY image/dpkg.cfg image/install.sh image/inventory.py image/packages.txt image/requirements.txt image/setup.sh /image/
RUN sh /image/install.sh
ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8
CMD ["bash"]
