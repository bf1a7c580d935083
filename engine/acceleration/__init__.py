"""Faster ways to run the model on a GPU: selected, verified against eager torch, captured and measured at load."""
