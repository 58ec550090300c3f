"""A lifecycle node that survives invalid requests of lifecycle managers, and leaves nothing
behind."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from stemseg_ros.ros.health.process import started_at

Node = TypeVar("Node", bound=LifecycleNode)
Transition = Callable[[Node, LifecycleState], TransitionCallbackReturn]
OnChangeState = Callable[[ChangeState.Request, ChangeState.Response], ChangeState.Response]


def logged(transition: Transition[Node]) -> Transition[Node]:
    """Log the exception of a transition, which rclpy silently turns into an error transition."""

    @wraps(transition)
    def wrapped(self: Node, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(self, state)
        except Exception as error:
            self.get_logger().error(f"{transition.__name__}: {error}")
            raise

    return wrapped


class ManagedNode(LifecycleNode):
    """Refuses transitions that its state does not allow, which would end the process otherwise,
    and releases everything that it took from the middleware.
    """

    def __init__(self, name: str, **node_options: Any) -> None:
        super().__init__(name, **node_options)
        self.requested_at = started_at()
        """When the current transition was requested (start of the process, or request of a
        manager); monotonic seconds."""
        service = self._service_change_state
        service.callback = partial(self._change_state_if_allowed, service.callback)

    @property
    def state(self) -> str:
        """Label of the lifecycle state, such as "unconfigured"."""
        return str(self._state_machine.current_state[1])

    def destroy_node(self) -> None:
        """Leave the graph."""
        super().destroy_node()
        # It holds the handle of the node and with it the node's shared memory.
        self._state_machine.destroy_when_not_in_use()

    def _change_state_if_allowed(
        self, change: OnChangeState, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        self.requested_at = time.monotonic()
        wanted = request.transition
        machine = self._state_machine
        allowed = {number: label for number, label, *_ in machine.available_transitions}
        if wanted.label in allowed.values() or (not wanted.label and wanted.id in allowed):
            return change(request, response)
        known = {number: label for number, label, *_ in machine.transition_graph}
        name = wanted.label or known.get(wanted.id, str(wanted.id))
        self.get_logger().warning(
            f"the transition '{name}' is refused: the node is {self.state}, which allows "
            f"{' or '.join(sorted(set(allowed.values()))) or 'none'}"
        )
        response.success = False
        return response
