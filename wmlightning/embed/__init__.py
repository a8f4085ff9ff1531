"""Watermarking a Lightning project that is not ours: a key made of its pictures, and one callback."""
