"""Ways to run the model faster on a GPU: chosen, checked against eager torch, captured and measured at load."""
