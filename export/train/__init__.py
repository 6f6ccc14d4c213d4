"""The teacher, its ranker, and the student distilled from them."""
