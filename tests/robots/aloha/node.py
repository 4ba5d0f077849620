#!/usr/bin/python3
"""A robot of two arms and three cameras under ROS 1, written apart from flux and its driver.

Its arms follow the positions that they are told; what they are told, and what the node itself does
wrong and when, is in its log, one JSON object a line. It ends when its standard input does.

    /usr/bin/python3 node.py LOG --start JSON [--faults JSON] [--size WIDTH HEIGHT] [--depth]
        [--encoding rgb8|bgr8|mono8] [--announced ENCODING] [--compressed CAMERAS]
        [--ahead SECONDS] [--led]

A fault is {"what": NAME, "at": SECONDS, "for": SECONDS}, counted from the first command:

    camera_stops   "camera": one of f, l, r
    stamps_back    "by": seconds
    names_shuffled, nan, depth_stops
"""

import argparse
import io
import json
import math
import sys
import threading
import time

import numpy
import PIL.Image
import rospy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CompressedImage, Image, JointState

SIDES = ("left", "right")
CAMERAS = ("f", "l", "r")
NAMES = [f"joint{index}" for index in range(7)]
SHUFFLED = [4, 2, 6, 0, 1, 5, 3]
RATE_HZ = 30.0
LAG_S = 0.05
PADDING = 16
LARGEST_SPEED = 3.0


class Log:
    """Lines of JSON, written at once."""

    def __init__(self, path):
        self._file = open(path, "a", buffering=1)  # noqa: SIM115 - for as long as it runs
        self._lock = threading.Lock()

    def write(self, what, **content):
        with self._lock:
            line = {"what": what, "time_ns": time.monotonic_ns()}
            line.update(content)
            self._file.write(json.dumps(line) + "\n")


class Faults:
    """Which faults are in force; their time counts from the first command."""

    def __init__(self, schedule, log):
        self._schedule = schedule
        self._log = log
        self._told = set()
        self.start_s = None

    def find(self, what, **wanted):
        """Returns the fault that is in force now, or None."""
        if self.start_s is None:
            return None
        now_s = time.monotonic() - self.start_s
        for index, fault in enumerate(self._schedule):
            is_it = fault["what"] == what and all(fault.get(k) == v for k, v in wanted.items())
            if is_it and fault["at"] <= now_s < fault["at"] + fault.get("for", 1e9):
                if index not in self._told:
                    self._told.add(index)
                    self._log.write("fault", fault=what)
                return fault
        return None


class Arm:
    """Follows its newest command with a lag, and no faster than its motors turn."""

    def __init__(self, side, start, log, faults, is_led):
        self._side = side
        self._log = log
        self._faults = faults
        self._position = numpy.array(start, float)
        self._target = self._position.copy()
        self._moved_s = time.monotonic()
        self._publisher = rospy.Publisher("/puppet/joint_" + side, JointState, queue_size=10)
        topic = "/master/joint_" + side
        if is_led:
            self._leader = rospy.Publisher(topic, JointState, queue_size=1)
        else:
            rospy.Subscriber(topic, JointState, self._take, tcp_nodelay=True)

    def _take(self, message):
        if self._faults.start_s is None:
            self._faults.start_s = time.monotonic()
        self._log.write(
            "command",
            side=self._side,
            names=list(message.name),
            position=list(message.position),
            extra=len(message.velocity) + len(message.effort),
            stamp=message.header.stamp.to_sec(),
        )
        order = [message.name.index(name) for name in NAMES]
        self._target = numpy.array(message.position)[order]

    def publish(self, stamp):
        """Moves and says where it is."""
        now_s = time.monotonic()
        seconds, self._moved_s = now_s - self._moved_s, now_s
        step = (self._target - self._position) * (1 - math.exp(-seconds / LAG_S))
        most = LARGEST_SPEED * seconds
        self._position = self._position + numpy.clip(step, -most, most)
        message = JointState()
        message.header.stamp = stamp
        position = list(self._position)
        if self._faults.find("nan"):
            position[1] = float("nan")
        order = SHUFFLED if self._faults.find("names_shuffled") else range(7)
        message.name = [NAMES[index] for index in order]
        message.position = [position[index] for index in order]
        message.velocity = [0.0] * 7
        message.effort = [0.0] * 7
        self._publisher.publish(message)
        self._log.write("position", side=self._side, position=list(self._position))


class Camera:
    """Shows a picture of its own, in which something moves."""

    def __init__(self, name, size, faults, encodings, has_depth, is_compressed):
        self._faults = faults
        self._name = name
        self._encoding, self._announced = encodings
        width, height = size
        self._picture = numpy.empty((height, width, 3), numpy.uint8)
        shades = numpy.linspace(40, 200, width).astype(numpy.uint8)
        red, green, blue = {"f": (0, 20, 90), "l": (60, 0, 20), "r": (30, 50, 0)}[name]
        self._picture[..., 0] = shades[None] // 2 + red
        self._picture[..., 1] = shades[None, ::-1] // 2 + green
        self._picture[..., 2] = numpy.linspace(30, 100, height).astype(numpy.uint8)[:, None] + blue
        self._count = 0
        topic = f"/camera_{name}/color/image_raw"
        self._publisher = self._jpeg = self._depth = None
        if is_compressed:
            self._jpeg = rospy.Publisher(topic + "/compressed", CompressedImage, queue_size=1)
        else:
            self._publisher = rospy.Publisher(topic, Image, queue_size=1)
        if has_depth:
            topic = f"/camera_{name}/depth/image_raw"
            self._depth = rospy.Publisher(topic, Image, queue_size=1)

    def save(self, path):
        """Writes down what it shows, red first, whatever its messages say."""
        numpy.save(path, self._picture)

    def publish(self, stamp):
        """Takes a picture."""
        if self._faults.find("camera_stops", camera=self._name):
            return
        back = self._faults.find("stamps_back")
        if back:
            stamp = stamp - rospy.Duration(back["by"])
        self._count += 1
        picture = self._picture.copy()
        row = self._count % picture.shape[0]
        picture[row] = 255
        if self._jpeg is not None:
            self._publish_jpeg(picture, stamp)
        else:
            self._publish_image(picture, stamp)
        if self._depth is not None and not self._faults.find("depth_stops"):
            depth = numpy.full(picture.shape[:2], 500 + self._count % 100, ">u2")
            message = Image(height=depth.shape[0], width=depth.shape[1], encoding="16UC1")
            message.header.stamp = stamp
            message.is_bigendian = 1
            message.step = 2 * depth.shape[1]
            message.data = depth.tobytes()
            self._depth.publish(message)

    def _publish_image(self, picture, stamp):
        """Publishes rows that are longer than their pixels."""
        message = Image(height=picture.shape[0], width=picture.shape[1])
        message.header.stamp = stamp
        message.encoding = self._announced
        if self._encoding == "bgr8":
            picture = picture[..., ::-1]
        elif self._encoding == "mono8":
            picture = picture[..., :1]
        pixels = picture.reshape(picture.shape[0], -1)
        rows = numpy.full((picture.shape[0], pixels.shape[1] + PADDING), 7, numpy.uint8)
        rows[:, :-PADDING] = pixels
        message.step = rows.shape[1]
        message.data = rows.tobytes()
        self._publisher.publish(message)

    def _publish_jpeg(self, picture, stamp):
        """Publishes as image_transport does."""
        buffer = io.BytesIO()
        PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=90)
        message = CompressedImage(format="rgb8; jpeg compressed bgr8", data=buffer.getvalue())
        message.header.stamp = stamp
        self._jpeg.publish(message)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("--faults", type=json.loads, default=[])
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96))
    parser.add_argument("--start", type=json.loads, required=True, help="14 joints, left first")
    parser.add_argument("--encoding", default="rgb8")
    parser.add_argument("--announced", help="the encoding that messages claim")
    parser.add_argument("--led", action="store_true", help="publish commands, and take none")
    parser.add_argument("--ahead", type=float, default=0.0, help="of the clock, in seconds")
    parser.add_argument("--compressed", default="", help="cameras that publish JPEG")
    parser.add_argument("--depth", action="store_true")
    args = parser.parse_args()

    log = Log(args.log)
    faults = Faults(args.faults, log)
    rospy.init_node("cobot", anonymous=False, disable_signals=True)
    arms = [
        Arm(side, args.start[7 * index : 7 * index + 7], log, faults, args.led)
        for index, side in enumerate(SIDES)
    ]
    encodings = args.encoding, args.announced or args.encoding
    cameras = [
        Camera(name, args.size, faults, encodings, args.depth, name in args.compressed)
        for name in CAMERAS
    ]
    for name, camera in zip(CAMERAS, cameras, strict=True):
        camera.save(f"{args.log}.{name}.npy")
    base = rospy.Publisher("/odom_raw", Odometry, queue_size=1)
    rospy.Subscriber("/cmd_vel", Twist, lambda message: log.write("base_command"))

    is_over = threading.Event()

    def wait_for_end():
        sys.stdin.read()
        is_over.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    log.write("ready")
    print("ready", flush=True)
    next_s = time.monotonic()
    while not is_over.is_set():
        stamp = rospy.Time.now() + rospy.Duration(args.ahead)
        for source in arms + cameras:
            source.publish(stamp)
        odometry = Odometry()
        odometry.header.stamp = stamp
        odometry.twist.twist.linear.x = 0.25
        base.publish(odometry)
        next_s = max(next_s + 1 / RATE_HZ, time.monotonic() - 1 / RATE_HZ)
        is_over.wait(max(0.0, next_s - time.monotonic()))
    log.write("end")


if __name__ == "__main__":
    main()
