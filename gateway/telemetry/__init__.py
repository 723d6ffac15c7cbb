"""What operators see: log events, metrics, traces."""
