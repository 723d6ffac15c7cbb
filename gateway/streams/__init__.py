"""Server-Sent Events: the shared tail of each log, and the readers that it pushes to."""
