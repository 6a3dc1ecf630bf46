"""Errors that a user can fix: one sentence that says what is wrong, where, and how to mend it.

The command line prints these without a traceback; everything else is a defect of chiasm and keeps its traceback."""


class ChiasmError(Exception):
    """What went wrong, where, and what to do about it, in one sentence a user can act on."""


class RecipeError(ChiasmError):
    """A recipe or an override that cannot be read: an unknown key, a value of the wrong type, a missing entry."""


class DataError(ChiasmError):
    """A sample that cannot be read. Loaders skip and count these; above the recipe's share the run stops."""


class CheckpointError(ChiasmError):
    """A checkpoint folder or a foreign checkpoint that is incomplete, misshapen or of an unknown kind."""


class TrainingError(ChiasmError):
    """A training run that cannot continue: a loss that is not finite, a checkpoint that does not fit the recipe."""


class CapabilityError(ChiasmError):
    """A model asked for something it cannot do, such as generating text with a dual encoder."""


class RemoteError(ChiasmError):
    """An endpoint that cannot be used any more: a wrong key, a spent budget, no answers at all."""


class MissingExtra(ChiasmError):
    """An optional dependency that is not installed. beside: a command that has to follow that of the extra."""

    def __init__(self, package: str, extra: str, purpose: str, beside: str = "") -> None:
        then = f", then {beside}" if beside else ""
        super().__init__(f"{purpose} needs the package '{package}': pip install 'chiasm[{extra}]'{then}")


class ContractError(ChiasmError):
    """A family, source, task or other choice that does not keep what all of its kind promise."""
