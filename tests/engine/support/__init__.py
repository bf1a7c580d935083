"""Models, inputs and reference runs for the tests of the engine."""
