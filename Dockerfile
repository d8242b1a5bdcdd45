# Builds the server, and puts it with the default model into a small image that runs as nobody.
#
#     docker build -t rewarden .
#     docker run --rm -p 127.0.0.1:8080:8080 rewarden

FROM rust:1.95-slim-trixie AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY src src
# Not built, but the manifest names it.
COPY benches/kernels.rs benches/kernels.rs
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin rewarden \
    && install -D target/release/rewarden /out/rewarden

FROM debian:trixie-slim
# The model is looked for beside the executable.
COPY models /opt/rewarden/models
COPY --from=build /out/rewarden /opt/rewarden/rewarden
USER 65534:65534
WORKDIR /opt/rewarden
# Inside a container the loopback address would be reachable from nowhere. Who may come is settled where the port is published,
# and by keys: docker run -e REWARDEN_API_KEY ... (README, Access).
ENV REWARDEN_HOST=0.0.0.0
EXPOSE 8080
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/rewarden/rewarden"]
CMD ["serve"]
