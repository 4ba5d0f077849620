"""A robot that knows openpi's client and nothing of flux.

    python openpi_robot.py REQUESTS.npz ANSWERS.npz URL [API_KEY]

REQUESTS has `task`, M `noise`, and N `states` and `pictures` (uint8, HWC), which are sent in turns,
`count` times in all. The robots of openpi send them under different keys, and so does this one:
other ones after N requests, and when the noise begins again.
"""

import sys
import time

import numpy as np
from openpi_client import websocket_client_policy


def nested(state, picture):
    """As openpi's ALOHA: pictures with the channels first."""
    return {"state": state, "images": {"cam_high": np.transpose(picture, (2, 0, 1))}}


def nested_hwc(state, picture):
    return {"state": state, "images": {"cam_high": picture}}


def flat(state, picture):
    """As openpi's DROID and LIBERO: one key per array, with a slash."""
    return {"observation/state": state, "observation/images/cam_high": picture}


def dotted(state, picture):
    """As LeRobot's datasets."""
    return {"observation.state": state, "observation.images.cam_high": picture}


KINDS = (nested, nested_hwc, flat, dotted)


def main():
    with np.load(sys.argv[1]) as data:
        requests = {name: data[name] for name in data.files}
    states, pictures = requests["states"], requests["pictures"]
    api_key = sys.argv[4] if len(sys.argv) > 4 else None
    policy = websocket_client_policy.WebsocketClientPolicy(host=sys.argv[3], api_key=api_key)
    metadata = policy.get_server_metadata()
    answers, times = [], []
    noise = requests["noise"]
    for i in range(requests["count"]):
        number = i % len(states)
        kind = KINDS[(i // len(states) + i // len(noise)) % len(KINDS)]
        observation = kind(states[number], pictures[number])
        observation["prompt"] = str(requests["task"])
        observation["noise"] = noise[i % len(noise)]
        began = time.monotonic()
        answer = policy.infer(observation)
        times.append(time.monotonic() - began)
        answers.append(answer["actions"])
    np.savez(
        sys.argv[2],
        actions=np.stack(answers),
        times_s=np.array(times),
        metadata=np.array(sorted(map(str, metadata))),
    )


if __name__ == "__main__":
    main()
