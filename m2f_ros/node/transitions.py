"""Lifecycle transitions in a thread of their own, so that the executor stays responsive while a model loads.

rclpy runs a transition inside the service's callback and keeps the executor's thread until it is done; a
MultiThreadedExecutor would cost time with every image.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNode
from rclpy.task import Future

from m2f_ros.node.process import join


class Transitions:
    """Runs the transitions of a lifecycle node one after the other, whoever asks for them.

    The answer to a request goes out when its transition is over, and one that comes meanwhile waits for its turn.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Wakes the executor, which then looks at the callbacks that wait for a future.
        self._wake = node.create_guard_condition(lambda: None)
        group = ReentrantCallbackGroup()  # else a callback that waits would hold up all others
        for service in node.services:
            if service.srv_type is ChangeState:
                service.callback = self._later(service.callback)
                service.callback_group = group
                group.add_entity(service)
        self._thread = threading.Thread(target=self._run, name="transitions", daemon=True)
        self._thread.start()

    def post(self, job: Callable[[], None]) -> None:
        """Run a function that makes transitions, after those that were asked for before."""
        self._jobs.put(job)

    def close(self, timeout: float) -> bool:
        """End the thread after the transition that it is in. False when it still runs after `timeout` s."""
        self._jobs.put(None)
        return join([self._thread], timeout)

    def _later(self, callback: Callable) -> Callable:
        async def change_state(request: ChangeState.Request, response: ChangeState.Response) -> ChangeState.Response:
            done: Future = Future()
            self._jobs.put(lambda: self._change(callback, request, response, done))
            return await done

        return change_state

    def _change(
        self, callback: Callable, request: ChangeState.Request, response: ChangeState.Response, done: Future
    ) -> None:
        try:
            response = callback(request, response)
        except Exception as error:  # on Humble and Jazzy: there is no such transition in this state (rclpy#1209)
            response.success = False
            self._node.get_logger().error(f"transition refused: {' '.join(str(error).split())}")
        done.set_result(response)
        self._wake.trigger()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
