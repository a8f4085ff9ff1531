"""Watermarks: ways of making triggers."""
