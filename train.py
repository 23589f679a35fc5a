"""Train a network: `python train.py optimizer=adamw schedule=warmup_cosine`; `python train.py --help` says the rest."""

import hydra
from omegaconf import DictConfig

from stepsize.answers import one_line_errors
from stepsize.config import register
from stepsize.resume.again import with_words_of_the_run

register()


@one_line_errors
@with_words_of_the_run
@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float:
    """Train, or test, what the words on the command line compose; returns the objective."""
    from stepsize.run import work  # torch and Lightning load only once the words are known to be right

    return work(cfg)


if __name__ == "__main__":
    main()
