"""Attention that was written to files: by format, and as units of work."""
