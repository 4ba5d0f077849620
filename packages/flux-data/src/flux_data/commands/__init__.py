"""The command `flux-data`."""
