"""Cameras read by real OpenCV: a film and a sequence of pictures that are made here.

    python cameras.py SOURCES FOLDER       SOURCES is the folder that holds flux_driver

Prints what was seen as one JSON object.
"""

import json
import sys
import time

import cv2
import numpy

sys.path.append(sys.argv[1])
from flux_driver.cameras import CameraError, open_cameras

NUM_FRAMES, FPS = 6, 20


def play(path):
    cameras = open_cameras({"top": {"type": "video", "path": path}}, report=lambda line: None)
    cameras.start()
    seen = {}
    end_s = time.monotonic() + 1.5 * NUM_FRAMES / FPS
    while time.monotonic() < end_s:
        image, time_s = cameras.read()["top"]
        seen[time_s] = [round(float(value)) for value in image.mean(axis=(0, 1))]
        time.sleep(0.002)
    cameras.close()
    first_s = min(seen)
    return [[time_s - first_s, *colour] for time_s, colour in sorted(seen.items())]


def main():
    folder = sys.argv[2]
    film = f"{folder}/film.mp4"
    writer = cv2.VideoWriter(film, cv2.VideoWriter_fourcc(*"mp4v"), FPS, (64, 48))
    for index in range(NUM_FRAMES):
        picture = numpy.full((48, 64, 3), (0, 0, 40 * index), numpy.uint8)
        writer.write(picture)
        cv2.imwrite(f"{folder}/picture_{index}.png", numpy.full((48, 64, 3), (0, 9, 200), "uint8"))
    writer.release()
    found = {"film": play(film)}
    pictures = {"type": "opencv", "index_or_path": f"{folder}/picture_%d.png", "warmup_s": 0}
    cameras = open_cameras({"top": dict(pictures, rotation=90)}, report=lambda line: None)
    cameras.start()
    image, time_s = cameras.read()["top"]
    cameras.close()
    found["picture"] = [image.shape, image[0, 0].tolist()]
    found["age_s"] = time.monotonic() - time_s
    found["errors"] = []
    for config in (
        {"type": "opencv", "index_or_path": film},
        {"type": "opencv", "index_or_path": "/dev/video987"},
        {"type": "opencv", "index_or_path": "/dev/null"},
        dict(pictures, width=640),
    ):
        cameras = open_cameras({"top": config})
        try:
            cameras.start()
        except CameraError as error:
            found["errors"].append(str(error))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
