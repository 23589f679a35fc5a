import copy
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra.core.plugins import Plugins

from stepsize.sweep.launch import Files

APPLICATION = """
    import os, random, secrets
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from hydra._internal.config_loader_impl import ConfigLoaderImpl

    load = ConfigLoaderImpl.load_sweep_config

    def noted(self, *args, **keywords):
        with open("composed", "a") as file:
            print(os.getpid(), file=file)
        return load(self, *args, **keywords)

    ConfigLoaderImpl.load_sweep_config = noted
    OmegaConf.register_new_resolver("unique", lambda: secrets.token_hex(8), use_cache=True, replace=True)

    @hydra.main(version_base="1.3", config_path="conf", config_name="config")
    def main(cfg):
        assert cfg.id == cfg.id
        job = HydraConfig.get().job
        with open("seen", "a") as file:
            print(cfg.x, job.num, job.override_dirname, cfg.id, random.random(), os.getppid(), os.getpid(), file=file)

    if __name__ == "__main__":
        main()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """What three jobs of an application saw: x, number, name, a drawn name, a drawn number, the server, itself."""
    folder = tmp_path_factory.mktemp("application")
    (folder / "app.py").write_text(dedent(APPLICATION))
    (folder / "conf").mkdir()
    (folder / "conf/config.yaml").write_text("x: 0\nid: ${unique:}\n")
    command = [sys.executable, "app.py", "-m", "hydra/launcher=forkserver", "hydra.sweep.dir=out", "x=1,2,3"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    found = sorted(line.split() for line in (folder / "seen").read_text().splitlines())
    composed = (folder / "composed").read_text().split()
    assert composed.count(found[0][5]) == 1  # once in the server, and in no job
    assert not {line[6] for line in found} & {*composed}
    return found


def test_each_job_has_its_own_words(seen: list[list[str]]) -> None:
    assert [line[:3] for line in seen] == [["1", "0", "x=1"], ["2", "1", "x=2"], ["3", "2", "x=3"]]


@pytest.mark.parametrize("drawn", [3, 4], ids=["name", "number"])
def test_what_is_drawn_at_random_differs_from_job_to_job(seen: list[list[str]], drawn: int) -> None:
    assert len({line[drawn] for line in seen}) == 3


def test_all_jobs_come_from_one_server(seen: list[list[str]]) -> None:
    assert len({line[5] for line in seen}) == 1


@pytest.fixture
def files(tmp_path: Path) -> Files:
    Plugins.instance()  # knows how to read what
    (tmp_path / "config.yaml").write_text("x: 1\n")
    return Files(ConfigRepository(places(tmp_path)))


def places(folder: Path) -> ConfigSearchPathImpl:
    found = ConfigSearchPathImpl()
    found.append("main", f"file://{folder}")
    found.append("schema", "structured://")
    return found


def x(files: Files) -> int:
    found = files.load_config("config")
    assert found is not None
    value: int = found.config.x
    found.config.x = -1  # what Hydra does with it changes nothing for others
    return value


def test_a_config_file_stays_as_it_was_when_it_was_first_read(files: Files, tmp_path: Path) -> None:
    assert x(files) == 1
    (tmp_path / "config.yaml").write_text("x: 2\n")
    assert [x(files), x(copy.deepcopy(files))] == [1, 1]


def test_config_files_are_looked_for_anew_in_other_places(files: Files, tmp_path: Path) -> None:
    assert x(files) == 1
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text("x: 3\n")
    elsewhere = copy.deepcopy(files)
    elsewhere.initialize_sources(places(other))
    assert [x(elsewhere), x(files)] == [3, 1]
