"""The soak: memory stays where it is, however long the server runs."""
