"""Errors of a constructor, told as errors of the config key that chose it."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException
from lightning.fabric.utilities.exceptions import MisconfigurationException

from stepsize.errors import ConfigError
from stepsize.schedules.horizon import HorizonError
from stepsize.signature import UnknownTargetError


@contextmanager
def blame(key: str) -> Iterator[None]:
    """Turn what a constructor refuses into an answer that names the config key."""
    try:
        yield
    except InstantiationException as error:
        reason = error.__cause__ or error
        if not isinstance(reason, (ValueError, TypeError, MisconfigurationException, InstantiationException)):
            raise
        raise ConfigError(f"{key}: {_reason(reason)}") from error
    except ConfigError:
        raise
    except (HorizonError, UnknownTargetError, ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"{key}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    return str(error).split("\nfull_key:")[0]
