"""Microsoft Graph: request paths, monitor responses, and the HTTP client."""
