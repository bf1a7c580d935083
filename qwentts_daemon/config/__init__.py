"""The configuration: its schema, its sources, and the values in force."""
