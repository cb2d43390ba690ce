"""segmentation_node inside the test's process, with a pipeline that needs no model, and a peer that calls it."""

from __future__ import annotations

import gc
import os
import threading
from array import array
from contextlib import contextmanager
from pathlib import Path

import rclpy
from builtin_interfaces.msg import Time
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from m2f_ros.errors import CheckpointError
from m2f_ros.node.executor import Executor
from m2f_ros.node.process import Ending, _spin
from m2f_ros.node.segmentation_node import SegmentationNode

NAME = "/segmentation_node"
HEIGHT, WIDTH = 32, 64
TIMEOUT = 240.0  # seconds until the end of a thread is taken for lost
BROKEN = {
    "missing": lambda: CheckpointError("there is no such model"),
    "bug": lambda: KeyError("x"),
    "memory": MemoryError,
}


def message(stamp: int) -> Image:
    return Image(
        header=Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera"),
        height=HEIGHT,
        width=WIDTH,
        encoding="bgr8",
        step=WIDTH * 3,
        data=array("B", bytes(HEIGHT * WIDTH * 3)),
    )


class Running:
    """The node, its executor and the peer."""

    def __init__(self, node, executor, ending, peer) -> None:
        self.node, self.executor, self.ending, self.peer = node, executor, ending, peer

    def change(self, label: str, wait: bool = True):
        request = ChangeState.Request()
        request.transition.label = label
        answer = self.peer.call(ChangeState, f"{NAME}/change_state", request, wait)
        return answer.success if wait else answer

    def state(self) -> str:
        return self.peer.call(GetState, f"{NAME}/get_state", GetState.Request()).current_state.label

    def held(self) -> dict[str, int]:
        """Count the memory, threads, files and entities that the process and the node hold."""
        gc.collect()
        node = self.node
        return {
            "threads": len(os.listdir("/proc/self/task")),
            "python threads": threading.active_count(),
            "files": len(os.listdir("/proc/self/fd")),
            "publishers": len(list(node.publishers)),
            "subscriptions": len(list(node.subscriptions)),
            "timers": len(list(node.timers)),
            "waitables": len(list(node.waitables)),
            "guards": len(list(node.guards)),
            "tasks": len(self.executor._tasks),
            "in the graph": sum(
                len(ask(self.node.get_name(), "/"))
                for ask in (
                    self.peer.node.get_publisher_names_and_types_by_node,
                    self.peer.node.get_subscriber_names_and_types_by_node,
                )
            ),
        }


def memory() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def running(peer, make_pipeline, *parameters: str):
    """The node with these parameters, "NAME:=VALUE" each."""
    arguments = [part for parameter in parameters for part in ("-p", parameter)]
    rclpy.init(args=["--ros-args", *arguments], signal_handler_options=SignalHandlerOptions.NO)
    run = Running(None, None, Ending(), peer)
    try:

        def load(settings):
            if settings.model in BROKEN:
                raise BROKEN[settings.model]()
            return make_pipeline()

        run.node = SegmentationNode(run.ending, load)
        run.executor = Executor(run.node)
        thread = threading.Thread(target=_spin, args=(run.executor, run.node, run.ending), daemon=True)
        thread.start()
        try:
            yield run
        finally:
            closed = run.node.close(TIMEOUT)
            run.executor.shutdown(TIMEOUT)
            thread.join(TIMEOUT)
            assert closed and not thread.is_alive()
            run.node.destroy_node()
    finally:
        rclpy.shutdown()
        # The lifecycle's services go with the node's last reference, and the traceback of a test that failed keeps the
        # frame of this function. While they are there the next test's peer finds them, and waits for an answer.
        thread = run.node = run.executor = None
        gc.collect()
    peer.until(lambda: NAME[1:] not in peer.node.get_node_names(), "the node is gone")
