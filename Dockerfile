# Build: docker build --build-arg GATEWAY_COMMIT="$(git rev-parse --short HEAD)" -t gateway .
# Run:   docker run --read-only --tmpfs /run/gateway:uid=65532,mode=0700 -p 8080:8080 \
#            -v "$PWD/conf:/app/conf:ro" gateway

FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY scripts/install-deps.sh scripts/
RUN scripts/install-deps.sh build

# The dependencies, in a layer that changes only with the manifest: built for an empty crate.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests/gateway benches \
    && echo 'fn main() {}' | tee build.rs src/main.rs tests/gateway/main.rs benches/router.rs \
    && touch src/lib.rs \
    && cargo build --release --locked --bin gateway \
    && rm -r src build.rs

# The sources come with their own times, which may be older than the empty crate's.
ARG GATEWAY_COMMIT=unknown
ENV GATEWAY_COMMIT=${GATEWAY_COMMIT}
COPY build.rs ./
COPY src src
RUN find src build.rs -exec touch {} + && cargo build --release --locked --bin gateway

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="gateway" \
      org.opencontainers.image.description="An edge API gateway on Pingora" \
      org.opencontainers.image.licenses="Apache-2.0"
WORKDIR /app
COPY --from=build /build/target/release/gateway /app/gateway
COPY conf /app/conf
# The socket of upgrades is here.
RUN install -d -o 65532 -g 65532 -m 0700 /run/gateway
# A number, so that an orchestrator can verify that it is not root.
USER 65532:65532
# Traffic, and the operators' listener where the configuration opens it beyond loopback.
EXPOSE 8080 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["/app/gateway", "--health-check"]
# It stays while gateways succeed each other, and ends with the last one.
ENTRYPOINT ["/app/gateway", "supervise", "--"]
