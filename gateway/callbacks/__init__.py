"""Signed callbacks: whom to call when, how many at once, and one attempt."""
