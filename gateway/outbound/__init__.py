"""Outbound network: DNS lookups, HTTP sessions, and the addresses that must never be dialled."""
