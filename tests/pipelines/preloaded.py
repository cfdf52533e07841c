"""A module that the processes of a Ray of our own can be told to import first."""

from pipelines.ray_session import announce_preloaded

announce_preloaded()
