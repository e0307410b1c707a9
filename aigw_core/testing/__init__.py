"""A kit that any driver can run against itself: scenarios as data, without I/O.

A :class:`Scenario` is a story between a caller, the driver under test and a provider. It is a generator of
:mod:`commands <aigw_core.testing.commands>`, which a *rig* carries out: it opens the connections, sends,
receives, cancels the driver. A rig for drivers that listen on a TCP port comes with
``aigw_anyio.testing.SocketRig``; :class:`MemoryRig` is the one for the reference driver in memory.

The driver is given a gateway made by the scenario, a :class:`Ledger` as its fact sink, and, if it drives
Connections, ``watch.connection_class`` in place of ``Connection``: a :class:`Watch` sees from inside whether
the rules of driving are kept.

    for scenario in scenarios(features):
        rig = MyRig(scenario)
        play(scenario, rig.ledger, rig.do)
        rig.close()
"""

from aigw_core.testing import commands
from aigw_core.testing.commands import Command, Ended, Script
from aigw_core.testing.ledger import Ledger
from aigw_core.testing.memory import MemoryRig
from aigw_core.testing.play import SCENARIOS, play, play_async, scenarios
from aigw_core.testing.scenario import Feature, Scenario
from aigw_core.testing.watch import Watch

__all__ = [
    "SCENARIOS",
    "Command",
    "Ended",
    "Feature",
    "Ledger",
    "MemoryRig",
    "Scenario",
    "Script",
    "Watch",
    "commands",
    "play",
    "play_async",
    "scenarios",
]
