"""Two nodes in one process under real ROS 2: flux's connection and one of rclpy's own.

    python peer.py SOURCES       SOURCES is the folder that holds flux_driver

Prints what they have seen as one JSON object.
"""

import json
import signal
import sys
import threading
import time

import cv2
import numpy
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import JointState

sys.path.append(sys.argv[1])
from flux_driver.robot import DriverError
from flux_driver.ros.connection import connect
from flux_driver.ros.images import colour_image, compressed_image, depth_image

KIND = "sensor_msgs/JointState"
LIMIT_S = 20.0


def until(is_true):
    end_s = time.monotonic() + LIMIT_S
    while not is_true():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def profile(reliability, durability="VOLATILE"):
    return QoSProfile(
        depth=10,
        reliability=getattr(ReliabilityPolicy, reliability),
        durability=getattr(DurabilityPolicy, durability),
    )


class Peer:
    """A node of rclpy's own, which publishes a stamped message on each of its topics."""

    def __init__(self):
        rclpy.init(args=[])
        self.node = rclpy.create_node("peer", namespace="/lab")
        self.publishers = {}
        self.taken = []
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        threading.Thread(target=self.executor.spin, daemon=True).start()

    def publish(self, topic, qos):
        self.publishers[topic, str(qos)] = self.node.create_publisher(JointState, topic, qos)

    def say(self, seconds):
        for (topic, _), publisher in list(self.publishers.items()):
            message = JointState(name=[topic], position=[seconds])
            message.header.stamp.sec, message.header.stamp.nanosec = 1000, 250_000_000
            publisher.publish(message)


def converted(connection):
    """Pictures of 2 x 3 pixels in which the first pixel is red, as the drivers get them."""
    picture = numpy.full((2, 3, 3), 90, numpy.uint8)
    picture[0, 0] = 250, 1, 2
    image = connection.message("sensor_msgs/Image")
    image.height, image.width, image.step, image.encoding = 2, 3, 12, "bgr8"
    rows = numpy.zeros((2, 12), numpy.uint8)
    rows[:, :9] = picture[..., ::-1].reshape(2, 9)
    image.data = rows.tobytes()
    depth = connection.message("sensor_msgs/Image")
    depth.height, depth.width, depth.step, depth.encoding = 1, 2, 4, "16UC1"
    depth.is_bigendian, depth.data = 1, bytes([1, 0, 0, 2])
    png = connection.message("sensor_msgs/CompressedImage")
    png.format = "png"
    png.data = cv2.imencode(".png", picture[..., ::-1])[1].tobytes()
    return {
        "image": colour_image(image)[0, 0].tolist(),
        "depth": depth_image(depth).tolist(),
        "png": compressed_image(png)[0, 0].tolist(),
    }


def main():
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    connection = connect("ros2", "flux", {"/stated": "reliable", "/told": {"depth": 2}})
    found = {"handlers": handlers == [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]}
    peer = Peer()
    heard = {}
    for topic in ("/reliable", "/best_effort", "/stated"):
        heard[topic] = []
        take = heard[topic].append
        connection.subscribe(
            topic, KIND, lambda message, received_s, t=take: t((message, received_s))
        )
    send = connection.advertise("/told", KIND)
    connection.advertise("/latched", KIND)
    peer.node.create_subscription(JointState, "/told", peer.taken.append, profile("BEST_EFFORT"))
    latched = profile("RELIABLE", "TRANSIENT_LOCAL")
    peer.node.create_subscription(JointState, "/latched", lambda message: None, latched)
    peer.publish("/reliable", profile("RELIABLE"))
    for topic in ("/best_effort", "/stated"):
        peer.publish(topic, profile("BEST_EFFORT"))

    def all_heard():
        peer.say(1.0)
        return all(heard[topic] for topic in ("/reliable", "/best_effort"))

    found["heard"] = until(all_heard)
    message, received_s = heard["/reliable"][0]
    found["stamp_s"] = connection.stamp_s(message)
    found["is_now"] = 0 <= time.monotonic() - received_s < LIMIT_S
    found["type"] = type(message).__name__

    def is_taken():
        message = connection.message(KIND)
        connection.stamp(message, 1234.75)
        message.position = [1.5, 2.5]
        send(message)
        return peer.taken

    found["taken"] = until(is_taken)
    taken = peer.taken[0]
    found["taken_stamp"] = [taken.header.stamp.sec, taken.header.stamp.nanosec]
    found["taken_position"] = list(taken.position)
    found["published"] = {
        topic: kind for topic, kind in connection.published().items() if topic in heard
    }
    found["publishers"] = [connection.publishers("/reliable"), connection.publishers("/told")]
    found["place"] = connection.place
    found["num_subscribers"] = connection.num_subscribers("/told")
    warnings = []
    until(lambda: warnings.extend(connection.take_warnings()) or len(warnings) >= 2)
    found["warnings"] = sorted(warnings)
    found["images"] = converted(connection)
    try:
        connection.subscribe("/x", "no_such_msgs/Thing", print)
    except DriverError as error:
        found["wrong_kind"] = str(error)
    begin_s = time.monotonic()
    connection.close()
    connection.close()
    found["close_s"] = time.monotonic() - begin_s
    found["threads"] = [t.name for t in threading.enumerate() if t.name.startswith("ros2")]
    found["peer_lives"] = rclpy.ok()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
