"""Ways to run the model faster on a GPU: chosen, checked against plain torch, captured and measured at load."""
