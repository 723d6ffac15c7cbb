"""The life of a copy: started once, then polled by one task until it ends."""
