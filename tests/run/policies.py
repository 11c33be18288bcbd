"""Policies of limits, as servers on different hosts have them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from jobmaster.host.cgroup.controllers import ControllerState, Enforced, Enforcement, NotEnforced
from jobmaster.host.cgroup.limits import Controller
from jobmaster.run.limits import Capabilities, LimitPolicy

WHY_NOT: Final = "this host binds the {} controller to cgroup v1"


def enforcement_of(controllers: Collection[Controller]) -> Enforcement:
    """A host where these enforce, and no others."""

    def state(controller: Controller) -> ControllerState:
        if controller in controllers:
            return Enforced(controller=controller)
        return NotEnforced(controller=controller, reason=WHY_NOT.format(controller))

    return Enforcement(**{controller.value: state(controller) for controller in Controller})


NO_POLICY: Final = LimitPolicy(capabilities=Capabilities(enforcement=enforcement_of(())))
"""No limits on a host that has none."""
