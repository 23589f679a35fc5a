"""A job's config, composed as Hydra does, in less time: what a choice of groups composes to is kept."""

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

# Words for these decide about more than a value, or Hydra sets it after them.
_HYDRAS_OWN = (
    "hydra.searchpath",
    "hydra.runtime",
    "hydra.overrides",
    "hydra.job.name",
    "hydra.job.config_name",
    "hydra.job.env_copy",
)


class Composer:
    """Composes the configs of an application's jobs.

    Hydra composes the groups first, and then sets the values that the words give. Most of the time goes into the first,
    which is the same for all trials that differ in values only; and most of a sweep's do.

    Args:
        loader: Hydra's.
        config: of the multirun.
    """

    def __init__(self, loader: Any, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        self._always: list[str] = OmegaConf.to_container(config.hydra.overrides.hydra)  # type: ignore[assignment]
        self._parsed: dict[str, Override] = {}
        self._kept: dict[tuple[str, ...], DictConfig] = {}

    def keep(self, overrides: Sequence[str]) -> None:
        """Compose what is needed for one job with the groups that these words choose; nothing where they are wrong."""
        with suppress(Exception):  # whatever it is, the job will say so itself
            groups = self.groups(overrides)
            if groups is not None and groups not in self._kept:
                self._kept[groups] = self._loader.load_sweep_config(self._config, list(groups))

    def groups(self, overrides: Sequence[str]) -> tuple[str, ...] | None:
        """The words of a job that choose from groups; None where its config has to be composed as a whole.

        Raises:
            HydraException: a word cannot be read.
        """
        always = self._parse(self._always)
        mine = self._parse(overrides)
        if self._config.hydra.searchpath or any(o.is_sweep_override() for o in (*always, *mine)):
            return None  # there are groups that only a loader of this path knows
        if any(f"{o.key_or_group}.".startswith(tuple(f"{key}." for key in _HYDRAS_OWN)) for o in mine):
            return None
        return tuple(str(o.input_line) for o in mine if self._chooses(o))

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra's `load_sweep_config` returns for a job, the caller's own.

        Raises:
            HydraException: as Hydra does.
        """
        parsed = self._parse([*self._always, *overrides])
        groups = self.groups(overrides)
        kept = self._kept.pop(groups, None) if groups is not None else None
        if kept is None:
            composed: DictConfig = self._loader.load_sweep_config(self._config, list(overrides))
            return composed
        values = [o for o in parsed[len(self._always) :] if not self._chooses(o)]
        ConfigLoaderImpl._apply_overrides_to_config(values, kept)
        return self._signed(kept, parsed)

    def _parse(self, words: Sequence[str]) -> list[Override]:
        if unknown := [word for word in words if word not in self._parsed]:
            found = OverridesParser.create(self._loader).parse_overrides(unknown)
            self._parsed.update(zip(unknown, found, strict=True))
        return [self._parsed[word] for word in words]

    def _chooses(self, override: Override) -> bool:
        """Whether a word chooses from a group, rather than setting a value."""
        key = override.key_or_group
        return self._loader.repository.group_exists(key) and not isinstance(override.value(), dict)

    def _signed(self, composed: DictConfig, parsed: Sequence[Override]) -> DictConfig:
        """With the words that made it, as Hydra notes them."""
        hydra, mine = composed.hydra, [o for o in parsed if not o.is_hydra_override()]
        hydra.overrides.hydra = [o.input_line for o in parsed if o.is_hydra_override()]
        hydra.overrides.task = [o.input_line for o in mine]
        hydra.runtime.cwd = os.getcwd()
        named = hydra.job.config.override_dirname
        with open_dict(hydra):
            for key in hydra.job.env_copy:
                hydra.job.env_set[key] = os.environ[key]
        hydra.job.override_dirname = get_overrides_dirname(
            overrides=mine, kv_sep=named.kv_sep, item_sep=named.item_sep, exclude_keys=named.exclude_keys
        )
        return composed
