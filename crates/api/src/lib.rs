//! The HTTP API: routes, authentication, problem documents, live streams, OpenAPI.
