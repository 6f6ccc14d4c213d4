"""One server each. These run in the peer's own environment and import nothing of Swiftrec but `job`."""
