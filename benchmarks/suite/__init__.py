"""`swiftrec bench`: what is measured in which order, the result and its report, comparison with an earlier one."""
