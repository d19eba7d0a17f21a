"""Observing running sessions: executions are counted where they happen, and a thread of its own does all the rest.

docs/observe.md says how a service uses it, what it costs and what is stored.
"""

from graphopt.observers.recorder import Recorder
from graphopt.observers.sessions import ObservedSession, observe, observe_all

__all__ = ["ObservedSession", "Recorder", "observe", "observe_all"]
