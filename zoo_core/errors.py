"""What the zoo raises. Every message is one sentence or two that say what to do."""


class ZooError(Exception):
    """The root: catch it to catch everything the zoo says on purpose."""


class PluginError(ZooError):
    """A plugin is installed but cannot be loaded, or a component of it cannot be imported."""


class UnknownComponent(ZooError, LookupError):
    """No component has that name; the message suggests near ones."""


class ConfigError(ZooError, ValueError):
    """A config does not describe a component; the message starts with the path of the culprit."""


class CheckpointError(ZooError):
    """A checkpoint is missing, damaged, or not what was asked for; the message names the file."""


class DataError(ZooError):
    """A data set is missing or cannot be used; the message says which and what would do."""


class TrainingError(ZooError):
    """A run cannot start or cannot go on; what was saved before stays."""
