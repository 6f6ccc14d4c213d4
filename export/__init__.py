"""From a BERT checkpoint and interactions to a verified bundle, stage by stage."""
