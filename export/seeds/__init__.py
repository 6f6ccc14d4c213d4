"""An export measured over several seeds: `swiftrec export seeds`."""
