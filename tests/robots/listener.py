#!/usr/bin/python3
"""Takes the commands to one arm, slowly if it is told so, and says when each was stamped.

/usr/bin/python3 listener.py LOG SECONDS
"""

import json
import socket
import sys
import time

import rospy
from sensor_msgs.msg import JointState


class SmallBuffers(socket.socket):
    """A socket that keeps little of what has not been read."""

    def connect(self, address):
        self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        super().connect(address)


def main():
    log, seconds = open(sys.argv[1], "a", buffering=1), float(sys.argv[2])  # noqa: SIM115 - kept
    if seconds:
        socket.socket = SmallBuffers

    def take(message):
        content = {"what": "heard", "stamp": message.header.stamp.to_sec(), "wall": time.time()}
        log.write(json.dumps(content) + "\n")
        time.sleep(seconds)

    rospy.init_node("listener", anonymous=True, disable_signals=True)
    rospy.Subscriber("/master/joint_left", JointState, take)
    print("ready", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
