"""A new plugin as a whole distribution that works as it stands: what ``zoo new`` writes. Imports no torch."""

from zoo_core.scaffold.project import KINDS as KINDS
from zoo_core.scaffold.project import Project as Project
from zoo_core.scaffold.project import new_plugin as new_plugin
