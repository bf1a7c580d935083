"""`qwentts-daemon doctor`: checks everything that speech depends on, changes nothing, and suggests remedies."""
