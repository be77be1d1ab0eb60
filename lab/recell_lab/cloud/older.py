"""Our own programs, for interpreters older than the language that they are written in."""

from __future__ import annotations

import ast


class _Plain(ast.NodeTransformer):
    """Takes out what Python 3.6 can't evaluate and doesn't need: annotations."""

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # Named tuples take their fields from annotations, whatever these say.
        node.annotation = ast.Name("object", ast.Load())
        return self.generic_visit(node)


def for_python36(source: bytes) -> bytes:
    """The same program without annotations and comments. Raises SyntaxError when 3.6 can't read it."""
    text = ast.unparse(_Plain().visit(ast.parse(source))) + "\n"
    ast.parse(text, feature_version=(3, 6))
    return text.encode()
