"""`flux-export`: from a training checkpoint to a verified bundle (extra `flux-runtime[export]`)."""
