#!/usr/bin/env python3
"""Prints the structure of the Rust code: lines by crate, circles of imports between files, and names of types that exist
more than once. With --check it fails if a circle has more than two files.

Usage: tests/py/structure.py [--check] [--arrows] [CHECKOUT]

An arrow goes from a file to the file that defines what it names by `crate::`, `super::`, `self::` or a name that a `use`
brought in from the crate. Re-exports are followed to the defining file and are no arrows themselves. Tests are left out."""

import collections
import pathlib
import re
import sys

STRIP = re.compile(r'//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|\'(?:\\.[^\']*|[^\'\\])\'', re.S)
ITEM = re.compile(r"^[ \t]*(?:pub(?:\([^)]*\))?\s+)?(?:(?:async|const|unsafe|extern)\s+)*(?:struct|enum|union|trait|type|fn|static|const|macro_rules!)\s+(\w+)", re.M)
TYPE = re.compile(r"^(?:pub(?:\([^)]*\))?\s+)?(?:struct|enum|trait)\s+(\w+)", re.M)
USE = re.compile(r"^([ \t]*)(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);", re.M)
PATH = re.compile(r"\b(?:crate|super|self)(?:::\w+)+")
TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*mod \w+\s*\{")


def is_test(path):
    return "tests" in path.parts or path.stem == "tests" or path.stem.endswith("_tests")


def without_tests(text):
    """The text up to its inline test module, without comments, strings and characters."""
    text = STRIP.sub(" ", text)
    found = TEST_MODULE.search(text)
    return text[: found.start()] if found else text


def leaves(tree, prefix=()):
    """The paths of a use tree: `a::{b, c::d as e}` is (a, b) as b and (a, c, d) as e."""
    depth, start, parts = 0, 0, []
    for i, c in enumerate(tree + ","):
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append(tree[start:i].strip())
            start = i + 1
    for part in filter(None, parts):
        if "{" in part:
            head, inner = part.split("{", 1)
            yield from leaves(inner.rsplit("}", 1)[0], prefix + tuple(filter(None, re.split(r"\s*::\s*", head.strip()))))
        else:
            path, _, name = part.partition(" as ")
            path = prefix + tuple(re.split(r"\s*::\s*", path.strip()))
            if path[-1] == "self":
                path = path[:-1]
            yield path, name.strip() or path[-1]


class Crate:
    def __init__(self, source):
        self.modules, self.items, self.exports, self.uses, self.text = {}, {}, {}, {}, {}
        for path in sorted(source.rglob("*.rs")):
            inside = path.relative_to(source)
            if is_test(inside) or inside.parts[0] == "bin":
                continue
            name = inside.with_suffix("").parts
            if name[-1] in ("mod", "lib", "main"):
                name = name[:-1]
            if name == () and inside.name == "main.rs" and (source / "lib.rs").exists():
                continue
            self.modules[name] = path
            self.text[name] = without_tests(path.read_text())
        for name, text in self.text.items():
            self.items[name] = set(ITEM.findall(text))
            self.exports[name], self.uses[name] = {}, {}
            for _, public, tree in USE.findall(text):
                for path, alias in leaves(tree):
                    (self.exports if public else self.uses)[name][alias] = path

    def absolute(self, module, path):
        head, rest = path[0], path[1:]
        if head == "crate":
            return rest
        if head == "self":
            return module + rest
        while head == "super":
            module = module[:-1]
            if rest and rest[0] == "super":
                rest = rest[1:]
            else:
                return module + rest
        return module + path if module + path[:1] in self.modules else None

    def definition(self, path, seen=()):
        """The module that defines what an absolute path names; None if that is outside of the crate."""
        if path in seen:
            return None
        for cut in range(len(path), -1, -1):
            module, rest = path[:cut], path[cut:]
            if module not in self.modules:
                continue
            if not rest:
                return module
            if rest[0] in self.items[module]:
                return module
            exports = self.exports[module]
            target = exports.get(rest[0])
            targets = [target + rest[1:]] if target else [t[:-1] + rest for a, t in exports.items() if a == "*"]
            for target in targets:
                inside = self.absolute(module, target)
                found = inside is not None and self.definition(inside, seen + (path,))
                if found or found == ():
                    return found
            return None if target else module
        return None

    def arrows(self):
        for module, text in self.text.items():
            paths = [tuple(p.split("::")) for p in PATH.findall(USE.sub(" ", text))]
            names = self.uses[module]
            paths += names.values()
            # A module that was brought in: what is used of it is what counts.
            for alias, path in names.items():
                inside = self.absolute(module, path)
                if inside in self.modules:
                    paths.remove(path) if path in paths else None
                    paths += [path + tuple(p.split("::")[1:]) for p in re.findall(rf"\b{alias}(?:::\w+)+", USE.sub(" ", text))]
            # A child that is named without `self::`.
            paths += [tuple(p.split("::")) for p in re.findall(r"(?<![\w:])[a-z_]\w*(?:::\w+)+", USE.sub(" ", text)) if module + tuple(p.split("::")[:1]) in self.modules]
            for path in paths:
                inside = self.absolute(module, path)
                found = self.definition(inside) if inside is not None else None
                if found is not None and found != module:
                    yield module, found

    def circles(self):
        graph = collections.defaultdict(set)
        for a, b in self.arrows():
            graph[a].add(b)
        return components(graph), graph


def components(graph):
    """Strongly connected components of more than one node (Tarjan)."""
    index, low, stack, on, out = {}, {}, [], set(), []

    def visit(v):
        index[v] = low[v] = len(index)
        stack.append(v)
        on.add(v)
        for w in graph.get(v, ()):
            if w not in index:
                visit(w)
                low[v] = min(low[v], low[w])
            elif w in on:
                low[v] = min(low[v], index[w])
        if low[v] == index[v]:
            circle = []
            while True:
                w = stack.pop()
                on.discard(w)
                circle.append(w)
                if w == v:
                    break
            if len(circle) > 1:
                out.append(sorted(circle))

    for v in list(graph):
        if v not in index:
            visit(v)
    return sorted(out, key=len, reverse=True)


def packages(root):
    """Each folder with Rust code, and its files without those of packages inside it."""
    homes = [m.parent for m in sorted(root.glob("**/Cargo.toml")) if (m.parent / "src").is_dir()]
    homes = [h for h in homes if not {"target", "third_party", ".git"} & set(h.parts)]
    for home in homes:
        inner = [h for h in homes if home in h.parents]
        yield home, [f for f in home.rglob("*.rs") if not any(i in f.parents for i in inner)]


def name(module):
    return "::".join(module) or "lib"


def main():
    flags = {a for a in sys.argv[1:] if a.startswith("--")}
    places = [a for a in sys.argv[1:] if not a.startswith("--")]
    root = pathlib.Path(places[0] if places else ".").resolve()
    check = "--check" in flags
    say = (lambda *_: None) if check else print
    types, too_long, total = collections.defaultdict(list), 0, [0, 0]
    say(f"{'crate':32} {'lines':>7} {'tests':>7}  circles (files in each)")
    for home, files in packages(root):
        lines = [0, 0]
        for f in files:
            text = f.read_text()
            test = is_test(f.relative_to(home))
            lines[test] += text.count("\n")
            if not test:
                for defined in set(TYPE.findall(text)):
                    types[defined].append(str(f.relative_to(root)))
        circles, graph = Crate(home / "src").circles()
        total = [a + b for a, b in zip(total, lines)]
        say(f"{str(home.relative_to(root)):32} {lines[0]:7} {lines[1]:7}  {' '.join(str(len(c)) for c in circles)}")
        for circle in (c for c in circles if len(c) > 2):
            too_long += 1
            print(f"    circle in {home.relative_to(root)}: " + " ".join(name(m) for m in circle))
            if check or "--arrows" in flags:
                for m in circle:
                    print(f"        {name(m)} -> {', '.join(name(t) for t in sorted(graph[m]) if t in circle)}")
    if check:
        sys.exit(f"{too_long} circles of more than two files: make the imports go one way" if too_long else 0)
    print(f"{'all':32} {total[0]:7} {total[1]:7}")
    twice = {n: f for n, f in types.items() if len(f) > 1}
    print(f"\nnames of types that exist more than once: {len(twice)}")
    for defined, where in sorted(twice.items(), key=lambda x: (-len(x[1]), x[0])):
        print(f"  {len(where)} {defined}: {' '.join(where)}")


main()
