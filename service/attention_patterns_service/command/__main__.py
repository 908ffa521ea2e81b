"""``python -m attention_patterns_service.command``: ``attention-serve`` where its script is not on the path."""

from attention_patterns_service.command import main

main()
