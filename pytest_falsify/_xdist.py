"""Which worker runs what.

Imported only when pytest-xdist asks for a scheduler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # has no stubs

from pytest_falsify._places import YAML_SUFFIXES

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController  # type: ignore[import-untyped]  # has no stubs

WITH_THE_NEXT = 2


class CaptureScheduling(LoadScopeScheduling):  # type: ignore[misc]  # its base has no stubs
    """Keeps the falsifiers that share captures on one worker.

    They are those of one contract on one target: a worker loads their models once and captures
    each input once. Any other test is handed out by itself, as ``--dist load`` would.

    pytest-xdist 3.8 would hand an item that killed its worker to the next one, hand out work units
    of which nothing is left, at which a worker waits for ever, and break down when a second worker
    is lost before the first one's successor has collected: so lost workers are our own affair.
    """

    def _split_scope(self, nodeid: str) -> str:
        return capture_group(nodeid)

    def remove_node(self, node: WorkerController) -> str | None:
        """Take back what a worker has not run; the item that it died of is not tried again."""
        workload = self.assigned_work.pop(node)
        left = {
            scope: {nodeid: False for nodeid, is_done in unit.items() if not is_done}
            for scope, unit in workload.items()
        }
        crashed = next((nodeid for unit in left.values() for nodeid in unit), None)
        if crashed is not None:
            del left[self._split_scope(crashed)][crashed]
        self.workqueue.update({scope: unit for scope, unit in left.items() if unit})
        for other in self.assigned_work:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        if not self.workqueue or node in self.registered_collections:
            super()._reschedule(node)

    def schedule(self) -> None:
        """Hand out work; a worker begins an item only when it knows of another or of the end."""
        super().schedule()
        for node in self.nodes:
            while self._is_idle(node):
                self._assign_work_unit(node)

    def _is_idle(self, node: WorkerController) -> bool:
        is_ready = node in self.registered_collections and not node.shutting_down
        if not is_ready or not self.workqueue:
            return False
        return int(self._pending_of(self.assigned_work[node])) < WITH_THE_NEXT


def capture_group(nodeid: str) -> str:
    """Return what an item shares captures with: its contract on its target, else itself alone.

    ``contracts/a.yaml::FALSIFY-A-1[tiny]`` belongs to ``contracts/a.yaml[tiny]``.
    """
    path, _, name = nodeid.partition("::")
    _, bracket, target = name.rpartition("[")
    if not path.endswith(YAML_SUFFIXES) or not bracket:
        return nodeid
    return f"{path}[{target}"
