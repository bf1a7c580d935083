"""Five rules for the size and shape of the code: `make lint` prints the figures and fails when one is broken.

Test files are exempt from the two limits on length: a table of cases makes a file or a function long, and would be
harder to read in two halves.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("qwentts_daemon", "engine")
MAX_MODULES, MAX_FILE_LINES, MAX_FUNCTION_LINES = 12, 400, 50

Tree = dict[Path, ast.Module]


def sources(*folders: str) -> Tree:
    """Parse every Python file below `folders`, by its path."""
    paths = (path for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return {path.relative_to(ROOT): ast.parse(path.read_text()) for path in paths}


def modules_by_folder(files: Tree) -> Counter[str]:
    """Count modules by folder, without `__init__`."""
    return Counter(str(path.parent) for path in files if path.name != "__init__.py")


def file_lengths(files: Tree) -> Counter[str]:
    return Counter({str(path): (ROOT / path).read_text().count("\n") for path in files})


def function_lengths(files: Tree) -> Counter[str]:
    """Lines of every function, decorators and docstring included."""
    lengths: Counter[str] = Counter()
    for path, tree in files.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                lengths[f"{path}:{node.lineno} {node.name}"] = (node.end_lineno or first) - first + 1
    return lengths


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path, tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Modules of ours that `path` imports when it is itself imported: not within functions or for type checkers."""
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    for node in at_import(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        else:
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            found = [name if (name := f"{base}.{alias.name}") in modules else base for alias in node.names]
        yield from (name for name in found if name in modules)


def at_import(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(node)


def import_cycle(files: Tree) -> list[str]:
    """One cycle of imports, or nothing."""
    modules = {module_name(path) for path in files}
    graph = {module_name(path): set(imports(path, tree, modules)) - {module_name(path)} for path, tree in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [*error.args[1]]
    return []


def repeated_types(files: Tree) -> list[str]:
    """Classes and type aliases, private ones included, that two modules of one package define."""
    homes = defaultdict(set)
    for path, tree in files.items():
        for name in type_names(tree):
            homes[path.parts[0], name].add(str(path))
    return [f"{name}: {', '.join(sorted(paths))}" for (_, name), paths in homes.items() if len(paths) > 1]


def type_names(tree: ast.Module) -> Iterator[str]:
    """Classes, type variables, and capitalised names such as `Report = Callable[..., None]` at the top of a module."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id.lstrip("_")[:1].isupper() and not target.id.isupper():
                    yield target.id


def most(label: str, limit: int, counts: Counter[str]) -> bool:
    """Print the largest of `counts` and every one above the limit. Return True if all are within it."""
    (name, count), *_ = counts.most_common(1)
    print(f"{label}: {count} of at most {limit} ({name})", flush=True)
    for name, count in counts.most_common():
        if count > limit:
            print(f"  too many: {count} in {name}", file=sys.stderr, flush=True)
    return max(counts.values()) <= limit


def none(label: str, found: list[str]) -> bool:
    print(f"{label}: {len(found)}", flush=True)
    for each in found:
        print(f"  {each}", file=sys.stderr)
    return not found


def main() -> int:
    product, everything = sources(*PACKAGES), sources(*PACKAGES, "tests", ".ci")
    kept = [
        most("modules in one folder", MAX_MODULES, modules_by_folder(everything)),
        most("lines in one file", MAX_FILE_LINES, file_lengths(product)),
        most("lines in one function", MAX_FUNCTION_LINES, function_lengths(product)),
        none("modules in an import cycle", import_cycle(product)),
        none("type names defined twice in a package", repeated_types(product)),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
