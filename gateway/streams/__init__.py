"""Server-Sent Events: the shared tail of each log, and the readers to which it pushes."""
