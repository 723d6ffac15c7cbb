"""Microsoft Graph: its paths, its monitors' answers, and the client that speaks to it."""
