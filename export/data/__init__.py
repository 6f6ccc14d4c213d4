"""Where items, interactions, query phrases and the checkpoint come from."""
