"""What the project promises about an export, and whether a bundle keeps it: `swiftrec export targets`."""
