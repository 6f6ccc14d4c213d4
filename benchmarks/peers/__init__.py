"""Other servers on the same job, side by side with this one: `swiftrec bench peers`."""
