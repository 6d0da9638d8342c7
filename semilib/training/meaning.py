"""What a piece of syntax says: its tree without words, places, and the names that only it sees.

Words are annotations, docstrings, comments, messages of errors and the sentence of an `option`. Local names are
numbers, in the order in which they are bound. A name from elsewhere is a blank, and `Reader.uses` says what stands
there. So two pieces say the same only if they do the same with the same things, on every version of Python.
"""
from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import Any, TypeGuard

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
SILENT = (ast.Pass, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom)        # they do nothing, or concern names
LEAVES = (ast.expr_context, ast.operator, ast.unaryop, ast.cmpop, ast.boolop, ast.Constant)
WORDS = ("ctx", "annotation", "returns", "type_comment", "type_params", "kind", "defaults", "kw_defaults")
# What a name stands for: a number if it is local, .NAME if it is an attribute of the class around it, else a full name.
Scope = dict[str, int | str]


class Reader:
    """Turns nodes into lists, and gathers on the way:

    uses         the full names in the blanks, in order: semilib.methods.losses.ce, torch.cat, len
    mentions     attributes and strings, any of which may name a method, and `NAME=` for what may name a parameter
    parameters   those of all functions, in order
    """

    def __init__(self):
        self.numbers = itertools.count()
        self.uses: list[str] = []
        self.mentions: set[str] = set()
        self.parameters: list[str] = []

    def read(self, node: Any, scope: Scope) -> Any:
        if isinstance(node, list):
            return [self.read(n, scope) for n in node if not is_silent(n)]
        if not isinstance(node, ast.AST):
            return ascii(node)
        return getattr(self, f"read_{type(node).__name__}", self.plain)(node, scope)

    def plain(self, node: ast.AST, scope: Scope, **other: Any) -> Any:
        """A node without a scope of its own. other: what counts in place of a field."""
        fields = {k: v for k, v in ast.iter_fields(node) if k not in WORDS} | other
        return [type(node).__name__, *([k, self.read(v, scope)] for k, v in fields.items() if v not in (None, []))]

    # ---- names -----------------------------------------------------------------------------------------------------

    def read_Name(self, node: ast.Name, scope: Scope) -> Any:
        stands = scope.get(node.id, node.id)
        if is_full(stands):
            self.uses.append(stands)
            return None
        if isinstance(stands, str) and isinstance(node.ctx, ast.Load):
            self.mentions.add(node.id)
        return stands

    def read_Attribute(self, node: ast.Attribute, scope: Scope) -> Any:
        if name := full_name(node, scope):
            self.uses.append(name)
            return None
        self.mentions.add(node.attr)
        return self.plain(node, scope)

    def read_Constant(self, node: ast.Constant, scope: Scope) -> Any:
        if isinstance(node.value, str):
            self.mentions.update((node.value, f"{node.value}="))
        return self.plain(node, scope)

    def read_keyword(self, node: ast.keyword, scope: Scope) -> Any:
        self.mentions.add(f"{node.arg}=")
        return self.plain(node, scope)

    def read_arg(self, node: ast.arg, scope: Scope) -> Any:
        self.parameters.append(node.arg)
        return scope[node.arg]

    def read_ExceptHandler(self, node: Any, scope: Scope) -> Any:
        return self.plain(node, scope, name=local(node.name, scope))

    read_MatchAs = read_MatchStar = read_ExceptHandler

    def read_MatchMapping(self, node: ast.MatchMapping, scope: Scope) -> Any:
        return self.plain(node, scope, rest=local(node.rest, scope))

    def read_MatchClass(self, node: ast.MatchClass, scope: Scope) -> Any:
        self.mentions.update(node.kwd_attrs)
        return self.plain(node, scope)

    # ---- words -----------------------------------------------------------------------------------------------------

    def read_AnnAssign(self, node: Any, scope: Scope) -> Any:
        return self.plain(ast.Assign([node.target], node.value), scope)

    def read_Assert(self, node: ast.Assert, scope: Scope) -> Any:
        return self.plain(node, scope, msg=None)

    def read_Raise(self, node: ast.Raise, scope: Scope) -> Any:
        return self.plain(node, scope, exc=node.exc.func if isinstance(node.exc, ast.Call) else node.exc, cause=None)

    def read_Call(self, node: ast.Call, scope: Scope) -> Any:
        """Of an `option` the second argument is its sentence."""
        if getattr(node.func, "attr", getattr(node.func, "id", "")) != "option":
            return self.plain(node, scope)
        keywords = [k for k in node.keywords if k.arg != "doc"]
        return self.plain(node, scope, args=node.args[:1] + node.args[2:], keywords=keywords)

    # ---- scopes ----------------------------------------------------------------------------------------------------

    def function(self, node: Any, scope: Scope, around: Scope) -> Any:
        """around: the scope of its name, defaults and decorators, which for a method is its class."""
        inner = scope | {name: full or next(self.numbers) for name, full in bound(node).items()}
        outer = [node.args.defaults, node.args.kw_defaults, getattr(node, "decorator_list", [])]
        return [type(node).__name__, local(getattr(node, "name", ""), around), self.read(outer, around),
                self.read(node.args, inner), self.read(node.body, inner)]

    def read_FunctionDef(self, node: Any, scope: Scope) -> Any:
        return self.function(node, scope, scope)

    read_AsyncFunctionDef = read_Lambda = read_FunctionDef

    def read_ListComp(self, node: Any, scope: Scope) -> Any:
        """The first iterable of a comprehension belongs to the scope around it."""
        first, *others = node.generators
        targets = [n.id for g in node.generators for n in ast.walk(g.target) if isinstance(n, ast.Name)]
        inner = scope | {name: next(self.numbers) for name in targets}
        nothing: Any = []
        rest = [ast.comprehension(first.target, nothing, first.ifs, first.is_async), *others]
        return [self.read(first.iter, scope), self.plain(node, inner, generators=rest)]

    read_SetComp = read_DictComp = read_GeneratorExp = read_ListComp

    def read_ClassDef(self, node: ast.ClassDef, scope: Scope) -> Any:
        """Methods of a class inside a function see what is around the class, not what is in it."""
        inner = attributes(node, scope)
        return [local(node.name, scope), self.read(head(node), inner),
                [self.read(n, inner) if isinstance(n, ast.ClassDef) else self.function(n, scope, inner)
                 for n in node.body if isinstance(n, NAMED)]]


# ---- nodes ---------------------------------------------------------------------------------------------------------


def is_silent(node: Any) -> bool:
    """Whether a statement does nothing: a docstring, `pass`, an annotation without a value,
    what only annotations need."""
    return isinstance(node, SILENT) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) \
        or isinstance(node, ast.AnnAssign) and node.value is None \
        or isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not node.orelse


def head(node: ast.ClassDef) -> list[Any]:
    """A class without its methods and classes. A field is its name, default, and whether it is one of another kind."""
    of = "".join(map(ast.dump, node.decorator_list + node.bases))
    body = [[ast.unparse(n.target), n.value, any(kind in ast.dump(n.annotation) for kind in ("ClassVar", "InitVar"))]
            if isinstance(n, ast.AnnAssign) and ("dataclass" in of or "NamedTuple" in of) else n
            for n in node.body if not isinstance(n, NAMED)]
    return [node.decorator_list, node.bases, node.keywords, body]


# ---- names ---------------------------------------------------------------------------------------------------------


def is_full(stands: int | str | None) -> TypeGuard[str]:
    """Whether what a name stands for lies elsewhere."""
    return isinstance(stands, str) and not stands.startswith(".")


def local(name: str | None, scope: Scope) -> int | str | None:
    """The number of a local name, or .NAME of an attribute; None for any other."""
    stands = scope.get(name) if name else None
    return None if is_full(stands) else stands


def full_name(node: ast.AST, scope: Scope) -> str | None:
    """What a name from elsewhere stands for, such as rng.words; None for a local one and for any other expression."""
    if isinstance(node, ast.Attribute):
        of = full_name(node.value, scope)
        return of and f"{of}.{node.attr}"
    stands = scope.get(node.id, node.id) if isinstance(node, ast.Name) else None
    return stands if is_full(stands) else None


def inside(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope, without those of the scopes inside it and without annotations that assign nothing."""
    todo = [scope]
    for node in todo:                                   # which grow
        if isinstance(node, COMPREHENSIONS):
            yield from (n for n in ast.walk(node) if isinstance(n, ast.NamedExpr))
        elif node is scope or not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            children = [n for n in ast.iter_child_nodes(node)
                        if not (isinstance(n, LEAVES) or isinstance(n, ast.AnnAssign) and n.value is None)]
            todo += children
            yield from children


def bound(scope: ast.AST) -> dict[str, str]:
    """The names that a scope binds, in order, each with its full name if it is imported, else with "". Raises
    ValueError for a relative import and for a star, which do not say what they bring."""
    names: dict[str, str] = {}
    elsewhere: set[str] = set()
    for node in inside(scope):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) | ast.arg(arg=name) | ast.FunctionDef(name=name) \
                    | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) | ast.ExceptHandler(name=str(name)) \
                    | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)) \
                    | ast.NamedExpr(target=ast.Name(id=name)):
                names.setdefault(name, "")
            case ast.Global(names=others) | ast.Nonlocal(names=others):
                elsewhere.update(others)
            case ast.Import(names=modules):
                full = [a.name if a.asname else a.name.split(".")[0] for a in modules]
                names |= {a.asname or name: name for a, name in zip(modules, full, strict=True)}
            case ast.ImportFrom(module=module, names=imported, level=level):
                if level or imported[0].name == "*":
                    raise ValueError(f"line {node.lineno}: not an absolute import of names")
                names |= {a.asname or a.name: f"{module}.{a.name}" for a in imported}
    return {name: full for name, full in names.items() if name not in elsewhere}


def attributes(node: ast.ClassDef, scope: Scope) -> Scope:
    """The scope of a class's head."""
    return scope | {name: full or f".{name}" for name, full in bound(node).items()}
