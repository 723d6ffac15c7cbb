"""How the gateway dials out, and whom it must never reach."""
