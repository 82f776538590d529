"""A run on disk: Arrow tables, their journal, and the only writer."""
