"""The signature of a callable that is named by its dotted path, read from its source without importing it.

Importing Lightning takes seconds; a misspelt word deserves its answer at once. Where the source cannot tell (a compiled
class, a default that is no literal), the callable is imported and `inspect.signature` asked.
"""

import ast
import importlib
import importlib.util
import inspect
from functools import cache
from inspect import Parameter
from pathlib import Path
from typing import Any


class UnknownTargetError(ValueError):
    """A dotted path that names nothing that is installed."""


def parameters(target: str) -> list[Parameter]:
    """Parameters of a class or function, without `self`, in order; annotations are source text.

    Args:
        target: dotted path such as "torch.optim.AdamW".

    Raises:
        UnknownTargetError: no installed module holds it.
    """
    module, _, name = target.rpartition(".")
    definition = _find(module, name) if module else None
    found = _from_source(definition) if definition is not None else None
    return found if found is not None else _from_import(target)


def load(target: str) -> Any:
    """The object that a dotted path names, imported.

    Raises:
        UnknownTargetError: the module or the name in it does not exist.
    """
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:cut])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                continue  # shorter prefixes are still to be tried; any other missing module is the target's own trouble
            raise
        for part in parts[cut:]:
            if not hasattr(found, part):
                raise UnknownTargetError(f"{target}: there is no {part!r} in {module}")
            found = getattr(found, part)
        return found
    raise UnknownTargetError(f"{target}: no module {'.'.join(parts[:-1]) or target!r} is installed")


def _from_import(target: str) -> list[Parameter]:
    signature = inspect.signature(load(target))
    return [
        p.replace(annotation="" if p.annotation is Parameter.empty else inspect.formatannotation(p.annotation))
        for p in signature.parameters.values()
    ]


def _from_source(definition: ast.FunctionDef) -> list[Parameter] | None:
    """None where a default is no literal."""
    a = definition.args
    positional = [*a.posonlyargs, *a.args]
    kinds = [
        *(Parameter.POSITIONAL_ONLY for _ in a.posonlyargs),
        *(Parameter.POSITIONAL_OR_KEYWORD for _ in a.args),
        *(Parameter.KEYWORD_ONLY for _ in a.kwonlyargs),
    ]
    padded = [None] * (len(positional) - len(a.defaults)) + list(a.defaults)
    arguments = [*zip(positional, padded, strict=True), *zip(a.kwonlyargs, a.kw_defaults, strict=True)]
    found = []
    for kind, (arg, default) in zip(kinds, arguments, strict=True):
        try:
            value = Parameter.empty if default is None else ast.literal_eval(default)
        except ValueError:
            return None
        annotation = ast.unparse(arg.annotation) if arg.annotation else ""
        found.append(Parameter(arg.arg, kind, default=value, annotation=annotation))
    if a.vararg:
        found.append(Parameter(a.vararg.arg, Parameter.VAR_POSITIONAL))
    if a.kwarg:
        found.append(Parameter(a.kwarg.arg, Parameter.VAR_KEYWORD))
    if definition.name == "__init__":
        del found[0]  # self
    return sorted(found, key=lambda p: p.kind)


def _find(module: str, name: str) -> ast.FunctionDef | None:
    """The function `name` of a module, or `__init__` of the class of that name; None where the source cannot tell."""
    path = _path(module)
    if path is None:
        return None
    for node in reversed(_source(path).body):  # what binds a name last is what an import gives
        match node:
            case ast.FunctionDef() if node.name == name:
                return node
            case ast.ClassDef() if node.name == name:
                return _init(node, module)
            case ast.Assign() if any(isinstance(target, ast.Name) and target.id == name for target in node.targets):
                return None
            case ast.ImportFrom():
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        origin = _absolute(node, module, path)
                        # A package that imports a name from itself imports a module of its own, no callable.
                        return None if (origin, alias.name) == (module, name) else _find(origin, alias.name)
    return None


def _init(node: ast.ClassDef, module: str) -> ast.FunctionDef | None:
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    if "__new__" in methods:
        return None  # it may take other arguments than __init__
    if "__init__" in methods:
        return methods["__init__"]
    if node.decorator_list or len(node.bases) != 1 or not isinstance(node.bases[0], ast.Name):
        return None  # a dataclass's __init__, or several bases: for `inspect` to say
    return _find(module, node.bases[0].id)


@cache
def _source(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    if not node.level:
        return node.module or ""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _path(module: str) -> Path | None:
    """Where a module's source lies; only its outermost package is looked up, for that imports nothing."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    path = Path(spec.origin)
    for part in inner:
        folder = path.parent
        if path.name != "__init__.py":
            return None
        path = next((p for p in (folder / part / "__init__.py", folder / f"{part}.py") if p.is_file()), folder)
        if path == folder:
            return None
    return path
