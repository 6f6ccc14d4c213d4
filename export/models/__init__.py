"""The PyTorch modules: encoder, ranker, teacher and students."""
