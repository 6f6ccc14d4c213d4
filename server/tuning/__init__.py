"""What suits a bundle on this machine: measured, kept beside the bundle, used at the next start."""
