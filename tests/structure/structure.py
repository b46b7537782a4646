"""How the package is built: import circles, imports against the order of dependence, and sizes of files and functions.

    python -m tests.structure.structure [ROOT]

prints the figures for a checkout. Every import counts, whether it is at the top of a file, within a function, or for
type checkers alone. An import through a package's lazy names counts as one of the module that defines the name.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGE = "medsam_adapt"
ROOT = Path(__file__).parents[2]
# A folder imports only from those above it. Weights are below the networks that start from them, and bundles, which are
# plain data, below the runs that are made of them.
ORDER = (
    ("core",),
    ("config",),
    ("weights",),
    ("data.volumes.formats",),
    ("data.volumes",),
    ("data.phantom",),
    ("data.datasets.layouts",),
    ("data.datasets",),
    ("data.prompts",),
    ("data.slices",),
    ("networks",),
    ("kernels",),
    ("methods",),
    ("feature_cache",),
    ("bundle",),
    ("runs",),
    ("training",),
    ("inference",),
    ("scoring",),
    ("outputs",),
    ("prediction",),
    ("suggestion",),
    ("evaluation",),
    ("comparison", "export"),
    ("report",),
    ("annotation",),
    ("hub",),
    ("workflows",),
    ("cli",),
)
Graph = Mapping[str, set[str]]


def levels() -> dict[str, int]:
    """Folder -> its place in the order."""
    return {folder: level for level, folders in enumerate(ORDER) for folder in folders}


def files_of(root: Path) -> dict[str, Path]:
    """The package's files by module name, without the name of the package."""
    found = {}
    for folder in (root / PACKAGE, root / "cli"):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts[1:] if parts[0] == PACKAGE else parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def folder_of(module: str, files: Mapping[str, Path]) -> str:
    """The folder that a module is in; modules at the top, which are in none, are named themselves."""
    inside = module if files[module].name == "__init__.py" else module.rpartition(".")[0]
    return inside or module


def imports(root: Path) -> dict[str, set[str]]:
    """The modules that each module imports."""
    files = files_of(root)
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in files.items()}
    lazy = lazy_names(root)

    def resolved(target: str, name: str) -> str:
        if (inner := f"{target}.{name}".lstrip(".")) in files:
            return inner
        if name in lazy.get(target, {}):
            return f"{target}.{lazy[target][name]}".lstrip(".")
        return target

    graph: dict[str, set[str]] = {}
    for module, tree in trees.items():
        package = module if files[module].name == "__init__.py" else module.rpartition(".")[0]
        graph[module] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                base = _absolute(node, package)
                if base is not None:
                    graph[module] |= {resolved(base, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
                graph[module] |= {name.removeprefix(PACKAGE).lstrip(".") for name in names}
        graph[module] &= set(files) - {module, ""}
    return graph


def _absolute(node: ast.ImportFrom, package: str) -> str | None:
    """The module of this package that is imported from; None for another package's."""
    if node.level:
        parts = package.split(".")
        parts = parts[: len(parts) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])
    name = node.module or ""
    return name.removeprefix(PACKAGE).lstrip(".") if name.split(".")[0] == PACKAGE else None


def lazy_names(root: Path) -> dict[str, dict[str, str]]:
    """Package -> its public names that are imported on first use -> the submodule that defines them."""
    return {
        module: _lazy_table(ast.parse(path.read_text(encoding="utf-8")))
        for module, path in files_of(root).items()
        if path.name == "__init__.py"
    }


def defined_names(path: Path) -> set[str]:
    """Names that a file defines at its top level."""
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def _lazy_table(tree: ast.Module) -> dict[str, str]:
    for node in tree.body:
        is_table = isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_EXPORTS"
        if is_table and isinstance(node.value, ast.Dict):  # type: ignore[attr-defined]
            return dict(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return {}


def folder_imports(root: Path) -> dict[str, set[str]]:
    """The folders that each folder imports from."""
    files = files_of(root)
    graph: dict[str, set[str]] = {}
    for module, targets in imports(root).items():
        folder = folder_of(module, files)
        graph.setdefault(folder, set()).update(folder_of(target, files) for target in targets)
        graph[folder].discard(folder)
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of two nodes or more)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            if len(stack) - at > 1:
                found.append(sorted(stack[at:]))
            del stack[at:]

    sys.setrecursionlimit(10_000)
    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def backward(root: Path) -> list[tuple[str, str]]:
    """Imports against the order: (importing module, imported module)."""
    files, places = files_of(root), levels()

    def level(module: str) -> int | None:
        return places.get(folder_of(module, files))

    pairs = []
    for module, targets in imports(root).items():
        for target in sorted(targets):
            here, there = level(module), level(target)
            same = folder_of(module, files) == folder_of(target, files)
            if not same and here is not None and there is not None and there >= here:
                pairs.append((module, target))
    return pairs


def functions(root: Path) -> Iterator[tuple[int, str]]:
    """(lines, place) of every function."""
    for module, path in files_of(root).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1, f"{module}.{node.name}"


def figures(root: Path) -> dict[str, str]:
    """The figures that describe a checkout, by name."""
    files = files_of(root)
    lengths = sorted(len(path.read_text(encoding="utf-8").splitlines()) for path in files.values())
    longest, where = max(functions(root))
    file_circles, folder_circles = circles(imports(root)), circles(folder_imports(root))
    return {
        "files": str(len(files)),
        "modules at the top": str(sum(1 for path in (root / PACKAGE).glob("*.py"))),
        "circles of folders": f"{len(folder_circles)} ({sum(map(len, folder_circles))} folders)",
        "circles of files": f"{len(file_circles)} ({sum(map(len, file_circles))} files)",
        "imports against the order": str(len(backward(root))),
        "median file": f"{statistics.median(lengths):.0f} lines",
        "95th percentile": f"{lengths[int(0.95 * (len(lengths) - 1))]} lines",
        "longest file": f"{lengths[-1]} lines",
        "longest function": f"{longest} lines ({where})",
    }


def main() -> None:
    """Print the figures, and what they count."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    for name, value in figures(root).items():
        print(f"{name:28}{value}")
    for kind, graph in (("folders", folder_imports(root)), ("files", imports(root))):
        for circle in circles(graph):
            print(f"circle of {kind}: {', '.join(circle)}")
    for module, target in backward(root):
        print(f"against the order: {module} imports {target}")


if __name__ == "__main__":
    main()
