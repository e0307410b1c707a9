"""The strict HTTP/1.1 codec for both roles: one way to read every message, or a refusal (RFC 9112)."""
