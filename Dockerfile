# syntax=docker/dockerfile:1
# What docker-compose.yml runs of this project, and the wasm by itself:
#   docker build --target wasm --output dist .      the filter and its schema, in dist/
#   docker build --target tool .                    the apikeys command
#   docker build --target kong .                    Kong 3.9 with the filter

FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN rustup target add wasm32-wasip1
COPY . .
# What the builds name as their commit: the folder that comes here has no git.
ARG APIKEYS_COMMIT=
# The caches outlive a build, so a change of one file does not compile the world anew;
# what is wanted is copied out, since a cache is no layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    APIKEYS_WASM_TOOLCHAIN=rustup scripts/build-wasm.sh \
 && scripts/build-tool.sh \
 && install -D -m 0644 target/wasm/apikey_jwt_exchange.wasm /out/apikey_jwt_exchange.wasm \
 && install -D -m 0755 target/release/apikeys /out/apikeys

FROM scratch AS wasm
COPY --from=build /out/apikey_jwt_exchange.wasm /
COPY kong/apikey_jwt_exchange.meta.json /

FROM debian:bookworm-slim AS tool
COPY --from=build /out/apikeys /usr/local/bin/apikeys
COPY kong/setup.sh /usr/local/bin/setup.sh
ENTRYPOINT ["apikeys"]

# The last releases with Wasm in the default build are those of 3.9.
FROM kong:3.9 AS kong
# Kong finds a filter by its file's name, and the schema beside it.
COPY --from=wasm / /opt/apikeys/filters/
COPY kong/kong.yml kong/nginx-apikeys.conf kong/nginx-location.conf /opt/apikeys/
COPY --chmod=0755 kong/entrypoint.sh kong/render.sh kong/ready.sh /opt/apikeys/
ENTRYPOINT ["/opt/apikeys/entrypoint.sh"]
# An ENTRYPOINT of one's own clears the image's command.
CMD ["kong", "docker-start"]
