"""The states of jobs, events and callbacks and their transitions: no I/O, and the time is always an argument."""
