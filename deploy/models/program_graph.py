"""The graph in an ExportedProgram: what PyTorch's loader would run as Python code is refused or removed.

The loader (``torch/_export/serde/serialize.py``) evaluates sizes as Python expressions, resolves operators as
attributes of ``torch``, imports modules that input structures name, and compiles Python code from names and guards.
Only the forms that ``torch.export.save`` writes for PyTorch's own operators pass.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from typing import Any

import torch

from deploy.core.errors import UnsafePickleError

_ARITHMETIC = ("eq", "ne", "le", "ge", "lt", "gt", "neg", "pos", "mul", "add", "sub", "floordiv", "mod", "pow")
_SIZES = (
    *(f"_operator.{name}" for name in (*_ARITHMETIC, "truediv", "and_", "or_", "lshift", "rshift")),
    *(f"torch.sym_{name}" for name in ("not", "int", "float", "ite", "max", "min", "sqrt")),
    "math.trunc",
)
"""Functions of sizes, as ``torch.export.save`` names them."""
_LIBRARIES = ("aten", "prims", "torchvision", "quantized_decomposed", "onnx")
"""Namespaces of operators that only compute."""
_FILES = ("from_file", "save")
"""Operators in `_LIBRARIES` that read or write files."""
_HIGHER_ORDER = (
    *("associative_scan", "auto_functionalized", "auto_functionalized_v2", "cond", "flex_attention", "hints_wrapper"),
    *("invoke_subgraph", "map_impl", "out_dtype", "scan", "strict_mode", "switch", "tag_activation_checkpoint"),
    *("while_loop", "while_loop_stack_output", "with_effects", "wrap_with_autocast", "wrap_with_set_grad_enabled"),
)
"""Operators on subgraphs that run nothing but operators."""

_POWERS = ("Pow", "PowByNatural", "FloatPow", "LShift", "RShift")
_EXPRESSIONS = (
    *_POWERS,
    *("Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "Float", "FloatTrueDiv"),
    *("FloorDiv", "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity", "IntTrueDiv", "Integer"),
    *("IsNonOverlappingAndDenseIndicator", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "ModularIndexing"),
    *("Mul", "Ne", "Not", "Or", "PythonMod", "Rational", "RoundDecimal", "RoundToInt", "StrictGreaterThan"),
    *("StrictLessThan", "Symbol", "ToFloat", "TruncToFloat", "TruncToInt", "Unequality", "Where"),
    *("ceiling", "floor"),
)
"""Functions of SymPy and of torch in the expressions of sizes."""
_SYMBOL = re.compile(r"[a-z]{1,4}\d{1,6}")
_MAX_EXPRESSION = 10_000
_MAX_EXPONENT = 64
_MAX_POWER = 1024
"""Largest product of nested exponents: larger numbers take unbounded time."""

_STRUCTURES = (
    *("builtins.tuple", "builtins.list", "builtins.dict", "torch.Size"),
    *("collections.OrderedDict", "collections.deque", "collections.namedtuple"),
)
_METADATA = ("stack_trace", "nn_module_stack", "torch_fn")
"""Metadata of a node that is kept; none of it is resolved to an object."""
_BY_NAME = (
    *("tensor_values", "sym_int_values", "sym_float_values", "sym_bool_values", "custom_obj_values"),
    *("as_string_to_argument", "opset_version", "treespec_namedtuple_fields"),
)
"""Fields whose keys are names that the author chose, not fields of the format."""


def clean_graph(text: bytes) -> bytes:
    """Return the JSON text of a program's graph without guards and without metadata that names Python objects.

    Raises:
        UnsafePickleError: loading or running the graph would run Python code, or take unbounded time.
        ValueError: the text is not JSON.
    """
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("the graph is not a JSON object")
    for name in document.get("range_constraints") or {}:
        _matches(_SYMBOL, name, "symbol")
    document["guards_code"] = []  # compiled as Python; the ranges of the dimensions are checked without them
    _check(document, fields=True)
    return json.dumps(document).encode()


def _refuse(kind: str, value: object) -> UnsafePickleError:
    return UnsafePickleError(f"it contains the {kind} {str(value)[:80]!r}, which could run code; it was not loaded.")


def _check(value: Any, *, fields: bool) -> None:
    """Check every value below; ``fields`` tells whether the keys of a dictionary are fields of the format."""
    if isinstance(value, list):
        for item in value:
            _check(item, fields=True)
    elif isinstance(value, dict):
        for key, item in value.items():
            if fields and key == "metadata":
                value[key] = {name: item[name] for name in _METADATA if isinstance(item.get(name), str)}
                continue
            if fields and key in _RULES:
                _RULES[key](item)
            _check(item, fields=not fields or key not in _BY_NAME)


def _matches(pattern: re.Pattern[str], value: Any, kind: str) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _refuse(kind, value)


def _name(value: Any) -> None:
    if value not in (None, "") and not (isinstance(value, str) and value.isidentifier()):
        raise _refuse("name", value)


def _names(value: Any) -> None:
    for item in value or ():
        _name(item)


def _qualified_name(value: Any) -> None:
    _matches(re.compile(r"[\w.:/@+-]+"), value, "name")


def _custom_object(value: Any) -> None:
    raise _refuse("custom object", value)


def _operator(name: Any) -> None:
    if name in _SIZES:
        return
    parts = str(name).split(".")
    if parts[:3] == ["torch", "ops", "higher_order"] and len(parts) == 4 and parts[3] in _HIGHER_ORDER:
        return
    if parts[:2] == ["torch", "ops"] and len(parts) == 5 and parts[2] in _LIBRARIES and parts[3] not in _FILES:
        if parts[2] == "torchvision":
            import torchvision.ops  # noqa: F401  (registers them)
        found = getattr(getattr(getattr(torch.ops, parts[2]), parts[3], None), parts[4], None)
        if type(found) is type(torch.ops.aten.add.Tensor):
            return
    raise _refuse("operator", name)


def _expression(text: Any) -> None:
    try:
        if not isinstance(text, str) or len(text) > _MAX_EXPRESSION:
            raise _refuse("size", text)
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError) as exc:
        raise _refuse("size", text) from exc
    if not _is_arithmetic(body, 1):
        raise _refuse("size", text)


def _is_arithmetic(node: ast.expr, power: float) -> bool:
    """Whether an expression only computes; ``power`` is the product of the exponents around it."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, bool | int | float)
        case ast.Name(id=name):
            return name in ("true", "false", "oo") or _SYMBOL.fullmatch(name) is not None
        case ast.UnaryOp(operand=operand):
            return _is_arithmetic(operand, power)
        case ast.BinOp(op=ast.Pow() | ast.LShift() | ast.RShift(), left=base, right=exponent):
            return _is_power(base, exponent, power)
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.FloorDiv() | ast.Mod()):
            return _is_arithmetic(node.left, power) and _is_arithmetic(node.right, power)
        case ast.Compare():
            return all(_is_arithmetic(item, power) for item in (node.left, *node.comparators))
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str(name))]):
            return _SYMBOL.fullmatch(name) is not None and _are_assumptions(node.keywords)
        case ast.Call(func=ast.Name(id="Float"), args=[ast.Constant(value=str(digits))]):
            return re.fullmatch(r"-?[\d.]+(e[+-]?\d{1,3})?", digits) is not None and _are_assumptions(node.keywords)
        case ast.Call(func=ast.Name(id=name), args=[base, exponent], keywords=[]) if name in _POWERS:
            return _is_power(base, exponent, power)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _EXPRESSIONS and name not in _POWERS:
            return all(_is_arithmetic(item, power) for item in args)
    return False


def _is_power(base: ast.expr, exponent: ast.expr, power: float) -> bool:
    """Whether the exponent is a small number, so that the power is one too."""
    values = []
    for node in ast.walk(exponent):
        match node:
            case ast.Constant(value=int() | float() as value):
                values.append(abs(value))
            case ast.Call() | ast.UnaryOp() | ast.USub() | ast.Load() | ast.Name(id="Integer" | "Rational"):
                pass
            case _:
                return False
    largest = max(values, default=1)  # of a rational number, that of its parts
    return largest <= _MAX_EXPONENT and power * largest <= _MAX_POWER and _is_arithmetic(base, power * largest)


def _are_assumptions(keywords: list[ast.keyword]) -> bool:
    """Whether keywords are those of `Symbol` (``integer=True``) and of `Float` (``precision=53``)."""
    return all(
        isinstance(item.value, ast.Constant) and isinstance(item.value.value, int) and 0 <= item.value.value <= 1000
        for item in keywords
    )


def _structure(text: Any) -> None:
    _, tree = json.loads(text)
    _check_structure(tree)
    if len(tree["children_spec"]) == 2 and isinstance(tree["children_spec"][1]["context"], str):
        keywords = json.loads(tree["children_spec"][1]["context"])
        _names(keywords if isinstance(keywords, list) else ())


def _check_structure(tree: Any) -> None:
    kind, context = tree["type"], tree["context"]
    if kind is not None and kind not in _STRUCTURES and not str(kind).startswith("torch.return_types."):
        raise _refuse("structure", kind)
    if context is not None and (not isinstance(context, str) or "{" in context):  # the loader imports what they name
        raise _refuse("structure", context)
    for item in tree["children_spec"]:
        _check_structure(item)


_RULES: dict[str, Callable[[Any], None]] = {
    "name": _name,
    "as_name": _name,
    "user_input_name": _name,
    "forward_arg_names": _names,
    "parameter_name": _qualified_name,
    "buffer_name": _qualified_name,
    "tensor_constant_name": _qualified_name,
    "custom_obj": _custom_object,
    "as_custom_obj": _custom_object,
    "target": _operator,
    "as_operator": _operator,
    "expr_str": _expression,
    "in_spec": _structure,
    "out_spec": _structure,
}
