"""Saved adapters: written, checked against their base, loaded, one or several at a time."""
