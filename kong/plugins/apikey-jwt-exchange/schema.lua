-- Requires no module: Konnect accepts no schema with one. A streamed schema runs in a sandbox without `ngx`.

return {
  name = "apikey-jwt-exchange",
  fields = {
    -- On a consumer the plugin would never run, because it finds the caller itself.
    { consumer = { type = "foreign", reference = "consumers", eq = ngx and ngx.null } },
    { protocols = {
        type = "set",
        required = true,
        default = { "grpc", "grpcs", "http", "https" },
        elements = { type = "string", one_of = { "grpc", "grpcs", "http", "https", "ws", "wss" } },
    } },
    { config = {
        type = "record",
        fields = {
          { url = {
              description = "The exchange of `apikeys serve`: `http://HOST:PORT/exchange`, `https://…`, or `http://unix:/PATH:/exchange` for a Unix socket. With several exchanges, `/exchange/NAME`.",
              type = "string",
              required = true,
              default = "http://127.0.0.1:8181/exchange",
              match_any = {
                patterns = {
                  "^https?://[%w%.%-_:%[%]]*[%w%]]/[^%s?#]*$",
                  "^http://unix:/[^%s:]+:/[^%s?#]*$",
                },
                err = "must be http://HOST:PORT/PATH, https://HOST:PORT/PATH or http://unix:/SOCKET:/PATH",
              },
          } },
          { headers = {
              description = "The headers that may hold a key. Must be the same as `headers` of the exchange.",
              type = "array",
              required = true,
              len_min = 1,
              default = { "authorization", "x-api-key" },
              elements = { type = "string", match = "^[%w_-]+$" },
          } },
          { timeout = {
              description = "Milliseconds to wait for the service. An exchange may take twice its `callout_timeout_ms`, plus the time for bcrypt.",
              type = "integer",
              required = true,
              default = 6000,
              between = { 100, 60000 },
          } },
          { ssl_verify = {
              description = "Whether to verify the service's certificate against Kong's `lua_ssl_trusted_certificate`.",
              type = "boolean",
              required = true,
              default = true,
          } },
        },
    } },
  },
}
