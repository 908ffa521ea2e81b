"""The workshop: collects attention maps, gathers hand labels, trains the net and exports the model bundle."""
