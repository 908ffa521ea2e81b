"""Peers that serve the same net, and the callers that load all servers alike."""
