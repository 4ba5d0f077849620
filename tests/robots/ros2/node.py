"""Two robots under ROS 2, written apart from flux and its drivers.

    python node.py LOG aloha|ur [--best-effort] [--hz N] [--size W H] [--start JSON]
                                [--stop-after S]

`aloha` has two arms with a gripper each and three cameras, `ur` one arm, a gripper and two cameras.
The arms follow the positions that they are told with a lag. The log has one JSON object a line:
what the arms were told and where they were. With --best-effort, images and joints are published as
sensor data (best effort). With --stop-after, nothing is published any more S seconds after the
first command. The node ends when its standard input does.
"""

import argparse
import json
import math
import sys
import threading
import time

import numpy
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32

ALOHA_NAMES = [f"joint{number}" for number in range(7)]
UR_PARTS = ["shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3"]
UR_NAMES = [part + "_joint" for part in UR_PARTS]
LAG_S = 0.05


class Log:
    def __init__(self, path):
        self.file = open(path, "a", buffering=1)  # noqa: SIM115 - for as long as it runs
        self.lock = threading.Lock()

    def write(self, what, **content):
        with self.lock:
            self.file.write(
                json.dumps(dict(content, what=what, time_ns=time.monotonic_ns())) + "\n"
            )


class Arm:
    """Follows its target, a list of positions."""

    def __init__(self, name, start, log):
        self.name, self.log = name, log
        self.position = numpy.array(start, float)
        self.target = self.position.copy()
        self.moved_s = time.monotonic()

    def told(self, message, positions):
        stamp = message.header.stamp if hasattr(message, "header") else None
        stamp_s = stamp.sec + stamp.nanosec * 1e-9 if stamp else None
        self.log.write("command", arm=self.name, position=list(positions), stamp=stamp_s)
        self.target = numpy.array(positions, float)

    def move(self):
        now_s = time.monotonic()
        share = 1 - math.exp(-(now_s - self.moved_s) / LAG_S)
        self.moved_s = now_s
        self.position += share * (self.target - self.position)
        self.log.write("position", arm=self.name, position=self.position.tolist())
        return self.position.tolist()


class Robot:
    """What both robots have in common: cameras, and a node that tells the time."""

    def __init__(self, node, args, log, cameras):
        self.node, self.log = node, log
        self.sensors = qos_profile_sensor_data if args.best_effort else QoSProfile(depth=10)
        self.first_s = None
        width, height = args.size
        shades = numpy.linspace(40, 200, width).astype(numpy.uint8)
        self.pictures = []
        for index, topic in enumerate(cameras):
            picture = numpy.full((height, width, 3), 60, numpy.uint8)
            picture[..., index] = shades
            self.pictures.append((node.create_publisher(Image, topic, self.sensors), picture))
        self.count = 0

    def now(self):
        return self.node.get_clock().now().to_msg()

    def listen(self, kind, topic, take):
        def receive(message):
            self.first_s = self.first_s or time.monotonic()
            take(message)

        self.node.create_subscription(kind, topic, receive, QoSProfile(depth=10))

    def show(self, stamp):
        self.count += 1
        for publisher, still in self.pictures:
            picture = still.copy()
            picture[self.count % picture.shape[0]] = 255
            message = Image(height=picture.shape[0], width=picture.shape[1], encoding="bgr8")
            message.step = 3 * picture.shape[1]
            message.header.stamp = stamp
            message.data = picture[..., ::-1].tobytes()
            publisher.publish(message)


class Aloha(Robot):
    def __init__(self, node, args, log):
        cameras = [f"/camera_{letter}/color/image_raw" for letter in "hlr"]
        super().__init__(node, args, log, cameras)
        start = args.start or [0.0] * 14
        self.arms = []
        for side, values in (("left", start[:7]), ("right", start[7:])):
            arm = Arm(side, values, log)
            publisher = node.create_publisher(JointState, "/puppet/joint_" + side, self.sensors)
            self.arms.append((arm, publisher))
            self.listen(JointState, "/master/joint_" + side, lambda m, a=arm: self.take(a, m))

    def take(self, arm, message):
        named = dict(zip(message.name, message.position, strict=True))
        arm.told(message, [named[name] for name in ALOHA_NAMES])

    def measure(self, stamp):
        for arm, publisher in self.arms:
            message = JointState(name=ALOHA_NAMES, position=arm.move())
            message.header.stamp = stamp
            publisher.publish(message)


class Ur(Robot):
    """Its joint states come in the order of the alphabet, as those of UR's own driver."""

    def __init__(self, node, args, log):
        cameras = ["/front_camera/color/image_raw", "/wrist_camera/color/image_raw"]
        super().__init__(node, args, log, cameras)
        start = args.start or [0.0] * 7
        self.arm, self.gripper = Arm("arm", start[:6], log), Arm("gripper", start[6:], log)
        self.joints = node.create_publisher(JointState, "/joint_states", self.sensors)
        self.opening = node.create_publisher(Float32, "/gripper/position", self.sensors)
        self.listen(JointState, "/cmd/servoj", self.take)
        self.listen(Float32, "/cmd/gripper", lambda m: self.gripper.told(m, [m.data]))

    def take(self, message):
        named = dict(zip(message.name, message.position, strict=True))
        self.arm.told(message, [named[name] for name in UR_NAMES])

    def measure(self, stamp):
        named = sorted(zip(UR_NAMES, self.arm.move(), strict=True))
        message = JointState(name=[name for name, _ in named])
        message.position = [position for _, position in named]
        message.header.stamp = stamp
        self.joints.publish(message)
        self.opening.publish(Float32(data=self.gripper.move()[0]))


ROBOTS = {"aloha": Aloha, "ur": Ur}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("log")
    parser.add_argument("robot", choices=ROBOTS)
    parser.add_argument("--best-effort", action="store_true")
    parser.add_argument("--hz", type=float, default=30.0)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 96))
    parser.add_argument("--start", type=json.loads)
    parser.add_argument("--stop-after", type=float)
    args = parser.parse_args()

    rclpy.init(args=[])
    node = rclpy.create_node("cobot")
    log = Log(args.log)
    robot = ROBOTS[args.robot](node, args, log)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    threading.Thread(target=executor.spin, daemon=True).start()
    is_over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), is_over.set()), daemon=True).start()
    print("ready", flush=True)
    next_s = time.monotonic()
    while not is_over.is_set():
        now_s = time.monotonic()
        has_stopped = args.stop_after is not None and robot.first_s is not None
        has_stopped = has_stopped and now_s - robot.first_s > args.stop_after
        if not has_stopped:
            stamp = robot.now()
            robot.measure(stamp)
            robot.show(stamp)
        next_s = max(next_s + 1 / args.hz, now_s)
        is_over.wait(max(0.0, next_s - time.monotonic()))
    log.write("end")


if __name__ == "__main__":
    main()
