"""What a job, an event and a callback are, and how each moves on: no clock, no chance, no I/O."""
