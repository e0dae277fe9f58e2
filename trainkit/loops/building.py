"""From the text "module:build" and words such as `--lr 3e-3` to a call of the user's function that makes a loop.

What a loop's builder takes is told from its signature: in a process that is to train, from the function itself; before
a job is submitted, from the text of its file, because importing that could cost seconds and may need packages that only
the job has.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainkit.errors import UserErrorException
from trainkit.loops.wording import REQUIRED, Parameter, values_for

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_PLAIN = (ast.Name, ast.Attribute, ast.Subscript, ast.BinOp, ast.BitOr, ast.Constant, ast.Tuple, ast.List, ast.Load,
          ast.Expression, ast.UnaryOp, ast.USub)  # fmt: skip
_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, str, bool, list, tuple, Path)},
    **{name: getattr(typing, name) for name in ("Any", "List", "Literal", "Optional", "Sequence", "Tuple", "Union")},
    "typing": typing,
}  # of a file that is only read, annotations of other names are not looked into


def split_name(name: object) -> tuple[str, str]:
    """The module and the function of "module:function". Raises UserErrorException for anything else."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserErrorException(
            f"loop is a text 'module:function', such as 'birds.train:build', not {name!r}; the function makes a loop."
        )
    module, _, function = name.partition(":")
    return module, function


def module_file(module: str, directory: Path) -> Path | None:
    """The file of a module that lies in `directory`; None where it does not."""
    path = directory.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def load_build(name: str, directory: Path) -> Callable[..., Any]:
    """The function that "module:function" names, imported from `directory`, else from what is installed.

    Raises UserErrorException where there is no such module or function; what the module itself raises comes as it is.
    """
    module, function = split_name(name)
    directory = directory.absolute()
    if str(directory) in sys.path:
        sys.path.remove(str(directory))
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the user's own module imports
        raise _no_module(module, directory) from None
    _refuse_other(module, getattr(loaded, "__file__", None), directory)
    build = getattr(loaded, function, None)
    if build is None:
        functions = [n for n, v in vars(loaded).items() if inspect.isfunction(v) and v.__module__ == module]
        raise _no_function(module, function, functions)
    if not callable(build) or inspect.iscoroutinefunction(build):
        raise UserErrorException(f"{name} is no function that makes a loop, but {type(build).__name__}.")
    return build  # type: ignore[no-any-return]


def arguments_for(build: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """The words as arguments of `build`, typed by its signature.

    Raises UserErrorException naming the word that is wrong, and everything that `build` takes.
    """
    names = vars(sys.modules[build.__module__]) if getattr(build, "__module__", None) in sys.modules else {}
    parameters = []
    for parameter in inspect.signature(build).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        if parameter.kind is parameter.POSITIONAL_ONLY:
            _refuse_positional(build.__qualname__, parameter.name, default is REQUIRED)
            continue
        parameters.append(Parameter(parameter.name, _hint(parameter.annotation, names), default))
    return values_for(getattr(build, "__qualname__", "build"), parameters, words)


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    """The type that an annotation is, or is the text of; None where there is none."""
    if annotation is inspect.Parameter.empty:
        return None
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, dict(names))
    except Exception:  # a name that exists for a type checker only: such a type is told from the default
        return None


def check_build(name: object, directory: Path, words: Sequence[str], complete: bool = True) -> Path | None:
    """Refuse what can be known to be wrong before anything is imported; the module's file, if it is in `directory`.

    `complete` says that a module which is neither there nor installed here can be nowhere. Raises UserErrorException.
    """
    module, function = split_name(name)
    file = module_file(module, directory)
    if file is None:
        top = module.partition(".")[0]
        ours = module_file(top, directory) is not None or (directory / top).is_dir()
        if ours or (complete and not _installed(top)):
            raise _no_module(module, directory)
        return None
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise UserErrorException(f"{file}{f':{line}' if line else ''} is no valid Python: {error}.") from error
    found = _top_level(tree, function)
    if found is None and not _binds(tree, function):
        raise _no_function(module, function, [node.name for node in tree.body if isinstance(node, _FUNCTIONS)])
    if isinstance(found, ast.AsyncFunctionDef):
        raise UserErrorException(f"{name} is no function that makes a loop, but a coroutine.")
    if found is not None and not found.decorator_list:  # a decorator may change what the function takes
        values_for(function, _parameters(found), words)
    return file


def _top_level(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    return next((node for node in reversed(tree.body) if isinstance(node, _FUNCTIONS) and node.name == name), None)


def _binds(tree: ast.Module, name: str) -> bool:
    """Whether the module may make a name otherwise: by import, assignment, a class, or in an `if` or `try`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and (name == (node.asname or node.name) or node.name == "*"):
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
        if isinstance(node, ast.ClassDef) and node.name == name and node in tree.body:
            return True
        if isinstance(node, (ast.If, ast.Try)) and any(isinstance(n, _FUNCTIONS) and n.name == name
                                                       for n in ast.walk(node)):  # fmt: skip
            return True
    return False


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Parameter]:
    """What a function takes, by its text."""
    taken = function.args
    count = len(taken.posonlyargs) + len(taken.args) - len(taken.defaults)
    defaults: list[ast.expr | None] = [*([None] * count), *taken.defaults]
    for argument, default in zip(taken.posonlyargs, defaults, strict=False):
        _refuse_positional(function.name, argument.arg, default is None)
    pairs = [*zip(taken.args, defaults[len(taken.posonlyargs) :], strict=True)]
    pairs += zip(taken.kwonlyargs, taken.kw_defaults, strict=True)
    return [
        Parameter(a.arg, _type_of(a.annotation), REQUIRED if d is None else _value_of(d), known=_is_plain(d))
        for a, d in pairs
    ]


def _refuse_positional(function: str, name: str, required: bool) -> None:
    if required:
        raise UserErrorException(
            f"{function}() takes {name} by position only, which no --{name} can give: leave out the '/' after it."
        )


def _type_of(annotation: ast.expr | None) -> Any:
    """The type that an annotation's text means; None where that is not one of those that words have a form for."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        try:
            annotation = ast.parse(annotation.value, mode="eval").body
        except SyntaxError:
            return None
    if annotation is None or not all(isinstance(node, _PLAIN) for node in ast.walk(annotation)):
        return None
    if isinstance(annotation, ast.Attribute) and annotation.attr == "Path":
        return Path
    try:
        return eval(compile(ast.Expression(annotation), "<annotation>", "eval"), {"__builtins__": {}}, dict(_TYPES))
    except Exception:  # of a name that is not known here: the job will tell
        return None


def _value_of(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ast.unparse(node)


def _is_plain(node: ast.expr | None) -> bool:
    """Whether a default is written as the value that it is."""
    try:
        return node is not None and (ast.literal_eval(node) is not None or True)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False


def _installed(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _refuse_other(module: str, file: str | None, directory: Path) -> None:
    """Raises UserErrorException where this process has another module of this name than the one in `directory`."""
    wanted = module_file(module, directory)
    if wanted is not None and (file is None or Path(file).resolve() != wanted.resolve()):
        raise UserErrorException(
            f"The module {module} of {directory} cannot be imported: {file or 'another one'} has the same name. "
            "Rename one of the two, or train in another process."
        )


def _no_module(module: str, directory: Path) -> UserErrorException:
    names = sorted({path.stem for path in directory.glob("*.py")} - {"__init__"})
    there = f"; the modules there are {', '.join(names[:12])}" if names else ", which holds no .py file"
    return UserErrorException(f"There is no module {module}, neither installed nor in {directory}{there}.")


def _no_function(module: str, function: str, functions: Sequence[str]) -> UserErrorException:
    there = f"its functions are {', '.join(functions[:12])}" if functions else "it has no function at all"
    return UserErrorException(f"The module {module} has no function {function}; {there}.")
