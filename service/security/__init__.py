"""API keys with scopes, and TLS."""
