"""π0 and π0.5: the networks, their sizes, and sampling."""
