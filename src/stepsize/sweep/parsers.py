"""Imported by the fork server: Hydra's and OmegaConf's parsers learn their grammars as they first parse, which takes a
tenth of a second; learnt in the server, they are known in every trial.
"""

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

_WORDS = ["a=b", "a.b=1e-05", "a=[1,2]", "a={b:1}", "+a='b c'", "~a", "a=true", "a=null", "a/b=c"]

OverridesParser.create().parse_overrides(_WORDS)
OmegaConf.to_container(
    OmegaConf.create({"a": "b", "c": "${a}", "d": "${.a}-${oc.env:HOME,x}", "e": "${oc.select:a,1}"}), resolve=True
)
