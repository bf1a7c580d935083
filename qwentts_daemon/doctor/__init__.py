"""`qwentts-daemon doctor`: looks at everything that speech depends on, changes nothing, and says what to do."""
