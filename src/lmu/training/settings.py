"""Fields of settings with default, help, range and option."""

import math
import numbers
import reprlib
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Rule = Callable[[Any], str | None]  # returns a message if the value breaks the rule
C = TypeVar("C")

SECTIONS = ("model", "training", "data", "place")  # the order of a command's options


class ConfigError(ValueError):
    """A setting is wrong.

    Attributes:
        setting: Name of the setting; None if it may be any of those passed to Lightning.
    """

    def __init__(self, setting: str | None, message: str) -> None:
        super().__init__(message)
        self.setting = setting


@dataclass(frozen=True)
class Setting:
    """Facts of a field beside its type and default.

    Attributes:
        help: Text of the option.
        rule: Checks a value that is not None.
        choices: Allowed words; any if None.
        section: One of :data:`SECTIONS`.
        option: Name of the option, if it is not that of the field.
        unset: The option has no default: the settings fill it in, see ``from_options``.
        may_change: It may differ when a run is resumed or evaluated.
        known: Common values if Lightning interprets the setting; else None.
    """

    help: str
    rule: Rule | None = None
    choices: tuple[str, ...] | None = None
    section: str = "training"
    option: str | None = None
    unset: bool = False
    may_change: bool = False
    known: tuple[str, ...] | None = None


def setting(default: Any, help: str, rule: Rule | None = None, **more: Any) -> Any:
    """Declare a field of a dataclass of settings; arguments as :class:`Setting`."""
    return field(default=default, metadata={"setting": Setting(help, rule, **more)})


def facts(one: Field[Any]) -> Setting:
    """Return the facts of a field by :func:`setting`."""
    return one.metadata["setting"]


def settings_of(config: type[Any]) -> dict[str, Setting]:
    """Return the settings of a dataclass in the order of the command's options."""
    settings = {one.name: facts(one) for one in fields(config)}
    return dict(sorted(settings.items(), key=lambda item: SECTIONS.index(item[1].section)))


def within(least: int, most: int) -> Rule:
    """Rule: a number in bounds."""

    def rule(value: Any) -> str | None:
        if value < least:
            return f"must be at least {least}"
        return f"must be at most {most:,}" if value > most else None

    return rule


def lies_in(least: float, most: float, text: str) -> Rule:
    """Rule: a number in bounds, which ``text`` names."""
    return lambda value: None if least <= value <= most else f"must lie in {text}"


def positive(value: Any) -> str | None:
    """Rule: a finite number above 0."""
    return None if math.isfinite(value) and value > 0 else "must be a positive number"


def not_negative(value: Any) -> str | None:
    """Rule: a finite number of at least 0."""
    return None if 0 <= value < math.inf else "must be at least 0"


def share(value: Any) -> str | None:
    """Rule: a number in [0, 1)."""
    return None if 0 <= value < 1 else "must lie in [0, 1)"


def seed_rule(value: Any) -> str | None:
    """Rule: a seed that NumPy and PyTorch accept."""
    right = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
    return None if right else "must lie in 0 to 2^32 - 1"


def check(name: str, value: Any, rule: Rule) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        ConfigError: It does; the message has the value.
    """
    if message := rule(value):
        raise ConfigError(name, f"{message}, got {reprlib.repr(value)}")


def check_settings(config: Any) -> None:
    """Check the types and ranges of all fields of a dataclass of settings.

    Raises:
        ConfigError: A field is wrong.
    """
    hints = get_type_hints(type(config))
    for name, known in settings_of(type(config)).items():
        _check_type(name, getattr(config, name), hints[name])
        if known.choices is not None:
            check(name, getattr(config, name), _one_of(known.choices))
    for name, known in settings_of(type(config)).items():
        if known.rule is not None and getattr(config, name) is not None:
            check(name, getattr(config, name), known.rule)


def _one_of(choices: tuple[str, ...]) -> Rule:
    return lambda value: None if value in choices else f"must be one of {', '.join(choices)}"


_KINDS: dict[Any, Any] = {int: numbers.Integral, float: numbers.Real, type(None): type(None)}
_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _check_type(name: str, value: Any, hint: Any) -> None:
    """Refuse values of another type than a setting's, and integers too large for a float."""
    kinds = [str] if get_origin(hint) is Literal else get_args(hint) or [hint]
    right = any(isinstance(value, _KINDS.get(kind, kind)) for kind in kinds)
    if not right or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join(_NAMES.get(kind, "none") for kind in kinds)
        raise ConfigError(name, f"must be {expected}, got {reprlib.repr(value)}")
    if float in kinds and isinstance(value, numbers.Integral) and abs(int(value)) >= 2**31:
        raise ConfigError(name, f"must be less than 2^31, got {reprlib.repr(value)}")


def read_settings(config: type[C], settings: Any) -> C:
    """Build settings from the content of a file, which may have been edited.

    Args:
        config: Class of the settings.
        settings: Content of the file.

    Raises:
        ConfigError: The content is not a table of settings, or one is unknown or out of range.
    """
    if not isinstance(settings, dict):
        raise ConfigError(None, f"must be a table of settings, got {reprlib.repr(settings)}")
    unknown = settings.keys() - settings_of(config).keys()
    if unknown:
        names = ", ".join(sorted(map(reprlib.repr, unknown)))
        raise ConfigError(None, f"there is no setting {names}")
    return config(**settings)
