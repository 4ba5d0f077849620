#!/usr/bin/python3
"""A UR arm with a gripper and two cameras under ROS 1, written apart from flux and its driver.

It publishes what the tutorial's nodes publish: /joint_states with the joints in the order of the
alphabet, as UR's own driver does, and the gripper as robotiq/StampedFloat32. It follows /cmd/servoj
and /cmd/gripper, and ends when its standard input does.

    /usr/bin/python3 node.py LOG --start JSON [--faults JSON]

A fault is {"kind": NAME, "at": SECONDS, "for": SECONDS}, counted from the first command: `speed`
with "share", `silent` (no joint states), `gripper_silent`, `camera_silent` (the wrist's), `nan`.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import threading
import time

import numpy
import rospy
from robotiq.msg import StampedFloat32
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32, Float64

NAMES = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")
OPEN_M = 0.085
RATE_HZ = 60.0
CAMERA_EVERY, GRIPPER_EVERY = 2, 6
LAG_S = 0.05
LARGEST_SPEED = 4.0


class Robot:
    """The arm, its gripper and what it logs."""

    def __init__(self, path, start, schedule):
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - for as long as it runs
        self._lock = threading.Lock()
        self._schedule = schedule
        self._told = set()
        self._begun_s = None
        self.position = numpy.array(start, float)
        self._target = self.position.copy()
        self._moved_s = time.monotonic()
        self.opening_m = self._wanted_m = OPEN_M

    def log(self, what, **content):
        """Writes a line."""
        with self._lock:
            self._file.write(
                json.dumps(dict({"t": time.monotonic_ns(), "what": what}, **content)) + "\n"
            )

    def fault(self, kind):
        """Returns the fault of a kind that is in force now, or None."""
        if self._begun_s is None:
            return None
        elapsed_s = time.monotonic() - self._begun_s
        for entry in self._schedule:
            if entry["kind"] == kind and 0 <= elapsed_s - entry["at"] < entry.get("for", 1e9):
                if kind not in self._told:
                    self._told.add(kind)
                    self.log("fault", kind=kind)
                return entry
        return None

    @property
    def share(self):
        """The share of its speed at which the arm moves."""
        entry = self.fault("speed")
        return 1.0 if entry is None else entry["share"]

    def take_arm(self, message):
        """Follows a command, whatever order its joints are in."""
        if self._begun_s is None:
            self._begun_s = time.monotonic()
        order = [message.name.index(name + "_joint") for name in NAMES]
        self._target = numpy.array(message.position)[order]
        self.log(
            "servoj",
            q=self._target.tolist(),
            names=list(message.name),
            stamp=message.header.stamp.to_sec(),
            age_s=time.time() - message.header.stamp.to_sec(),
        )

    def take_gripper(self, message):
        """Opens or closes the gripper."""
        self._wanted_m = message.data
        self.log("gripper", data=message.data)

    def move(self):
        """Moves the joints and the fingers."""
        now_s = time.monotonic()
        seconds, self._moved_s = (now_s - self._moved_s) * self.share, now_s
        step = (self._target - self.position) * (1 - math.exp(-seconds / LAG_S))
        most = LARGEST_SPEED * seconds
        self.position = self.position + numpy.clip(step, -most, most)
        self.opening_m += (self._wanted_m - self.opening_m) * (1 - math.exp(-seconds / LAG_S))
        self.log("position", measured=self.position.tolist())


class Camera:
    """A picture in which a line moves."""

    def __init__(self, name, shade):
        self._picture = numpy.full((48, 64, 3), shade, numpy.uint8)
        self._count = 0
        self._publisher = rospy.Publisher(f"/{name}/color/image_raw", Image, queue_size=1)

    def publish(self, stamp):
        """Takes a picture."""
        self._count += 1
        picture = self._picture.copy()
        picture[self._count % 48] = 255
        message = Image(height=48, width=64, encoding="rgb8", step=3 * 64)
        message.header.stamp = stamp
        message.data = picture.tobytes()
        self._publisher.publish(message)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--start", type=json.loads, required=True)
    parser.add_argument("--faults", type=json.loads, default=[])
    args = parser.parse_args()

    with contextlib.suppress(OSError):
        os.nice(-15)  # An arm's controller has a computer of its own.
    robot = Robot(args.log, args.start, args.faults)
    rospy.init_node("ur", anonymous=False, disable_signals=True)
    joints = rospy.Publisher("/joint_states", JointState, queue_size=10)
    gripper = rospy.Publisher("/gripper/position", StampedFloat32, queue_size=10)
    scaling = rospy.Publisher("/speed_scaling_factor", Float64, queue_size=1)
    cameras = [Camera("front_camera", 70), Camera("wrist_camera", 140)]
    rospy.Subscriber("/cmd/servoj", JointState, robot.take_arm, tcp_nodelay=True)
    rospy.Subscriber("/cmd/gripper", Float32, robot.take_gripper, tcp_nodelay=True)

    is_over = threading.Event()

    def wait_for_end():
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    print("ready", flush=True)
    next_s, turn = time.monotonic(), 0
    while not is_over.is_set():
        stamp = rospy.Time.now()
        robot.move()
        if not robot.fault("silent"):
            order = sorted(range(6), key=lambda index: NAMES[index])
            message = JointState(name=[NAMES[index] + "_joint" for index in order])
            message.header.stamp = stamp
            message.position = [robot.position[index] for index in order]
            if robot.fault("nan"):
                message.position[0] = math.nan
            joints.publish(message)
        if turn % GRIPPER_EVERY == 0 and not robot.fault("gripper_silent"):
            found = StampedFloat32(data=robot.opening_m)
            found.header.stamp = stamp
            gripper.publish(found)
            scaling.publish(Float64(100 * robot.share))
        if turn % CAMERA_EVERY == 0:
            for camera in cameras[:1] if robot.fault("camera_silent") else cameras:
                camera.publish(stamp)
        turn += 1
        next_s = max(next_s + 1 / RATE_HZ, time.monotonic() - 1 / RATE_HZ)
        is_over.wait(max(0.0, next_s - time.monotonic()))


if __name__ == "__main__":
    main()
