"""A copy from its request to its end: started once, then polled by one task."""
