"""Addresses, object stores, and the embedded store for local work."""
