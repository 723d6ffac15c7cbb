"""The process under uvicorn: sockets, signals, connections, workers."""
