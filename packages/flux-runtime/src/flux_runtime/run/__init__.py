"""The command `flux-runtime run`."""
