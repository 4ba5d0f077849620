"""The server of remote inference: one policy for many robots.

`server` opens connections, `connection` and `frames` watch their bytes, `conversation` speaks
openpi's protocol and our own, `scheduler` and `worker` infer one request after the other.
"""
