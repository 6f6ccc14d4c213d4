"""What the bundle is worth: tasks, baselines, gates."""
