"""Keys and values in blocks of one pool instead of one row per slot."""
