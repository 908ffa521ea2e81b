"""Attention of Hugging Face models over texts or pictures."""
