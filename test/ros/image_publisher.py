"""Publishes COUNT images at RATE Hz on ``image``, once somebody listens: image_publisher.py COUNT
RATE."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ros.harness import Peer, message, scene

if __name__ == "__main__":
    count, rate = int(sys.argv[1]), float(sys.argv[2])
    peer = Peer()
    peer.connect()
    for index in range(count):
        image = message(scene(index), 100 + index, f"camera_{index % 3}")
        image.header.stamp.nanosec = 7 * index
        peer.publisher.publish(image)
        time.sleep(1 / rate)
    peer.spin_for(1.0)
    peer.close()
