"""The command `flux-runtime bench`."""
