"""Nouns: what a deployment is, what the operator wants, what a plan is. No I/O here."""
