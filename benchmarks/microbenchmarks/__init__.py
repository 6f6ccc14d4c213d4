"""Single parts measured alone: training beside a busy process, parts of the score, parts of the server."""
