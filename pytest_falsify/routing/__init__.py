"""Mixture-of-experts routing as evidence: recorded, validated, derived from, and compared."""
