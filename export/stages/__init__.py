"""The stages of an export, one module each, under the names that the command gives them."""
