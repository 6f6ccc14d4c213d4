"""An export measured over several seeds: `python -m export seeds`."""
