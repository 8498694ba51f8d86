//! Exchanges API keys for Keycloak JWTs inside an API gateway.
