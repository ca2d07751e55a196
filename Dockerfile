# syntax=docker/dockerfile:1
# docker build -t tidegate .      from a clean clone; what is in it is said in image/rootfs.
#
# There is one base, which builds: give its digest to pin it for good (RUST_IMAGE=docker.io/library/rust@sha256:…).
ARG RUST_IMAGE=docker.io/library/rust:1.95.0-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock LICENSE ./
COPY .cargo .cargo
COPY src src
# The console of `tidegate dev` is an example page, compiled in.
COPY docs/examples/browser docs/examples/browser
# Cargo wants to see every member of the workspace; only the gateway is built.
COPY loadtest loadtest
RUN cargo build --release --locked -p tidegate --bin tidegate
COPY image image
RUN image/rootfs target/release/tidegate /rootfs

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tidegate" \
      org.opencontainers.image.description="A clustered WebSocket gateway for IoT devices: an ack means stored" \
      org.opencontainers.image.source="https://github.com/tidegate/tidegate" \
      org.opencontainers.image.documentation="https://github.com/tidegate/tidegate/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /rootfs/ /
ENV PATH=/usr/bin
# Devices; nodes; health and metrics.
EXPOSE 8443 7443 9090
USER 65532:65532
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/tidegate"]
CMD ["serve"]
