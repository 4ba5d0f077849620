"""The processes of a run, and the network spread over them."""
