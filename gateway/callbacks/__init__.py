"""Signed callbacks (webhooks): their delivery, the limits on attempts and the attempt over the wire."""
