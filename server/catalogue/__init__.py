"""Items, exact search, filters."""
