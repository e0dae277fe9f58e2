"""The kind of import contract that trainkit's layers need: a package imports nothing but what is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """`sources` and what is in them import only themselves, `allowed` and the standard library (itself, if asked)."""

    sources = fields.ListField(subfield=fields.StringField())
    allowed = fields.ListField(subfield=fields.StringField(), required=False)
    allow_installed = fields.BooleanField(required=False, default=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Compare every direct import of every module of the sources."""
        broken = sorted(self._broken(graph))
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def _broken(self, graph: ImportGraph) -> Iterator[str]:
        allowed = [*self.sources, *(self.allowed or [])]
        ours = {name.partition(".")[0] for name in graph.modules if not graph.is_module_squashed(name)}
        for source in self.sources:
            for module in {source, *graph.find_descendants(source)}:
                for imported in graph.find_modules_directly_imported_by(module):
                    top = imported.partition(".")[0]
                    if top in sys.stdlib_module_names or (top not in ours and self.allow_installed):
                        continue
                    if not any(imported == name or imported.startswith(name + ".") for name in allowed):
                        yield f"{module} imports {imported}"

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Print the imports that are not allowed."""
        for line in check.metadata["broken"]:
            output.print_error(line)
