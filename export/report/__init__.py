"""The finished bundle and its model card."""
