"""Proof of ownership from outside: key, suspects, statistics, verdict."""
