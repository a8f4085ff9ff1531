"""wmlightning: watermark image classifiers, attack the watermark, prove ownership from outside."""

__version__ = "0.1.0"
