"""Every query of the dashboards and alerts, taken apart: which metrics it asks for, and by which labels."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import promql_parser
import yaml

INFRA = Path(__file__).parents[2] / "infra"
ALERTS = INFRA / "prometheus" / "alerts.yml"
DASHBOARDS = sorted((INFRA / "grafana" / "json").glob("*.json"))
CHOSEN = {"__rate_interval": "1m", "job": ".*", "instance": ".*", "profile": "micro", "account": "spare"}
"""What somebody who looks at the dashboards has chosen."""
_LABEL_VALUES = re.compile(r"label_values\((.+), (\w+)\)")


class Selector(NamedTuple):
    """One metric that is asked for; ``labels``: those that it is chosen, grouped or joined by."""

    metric: str
    labels: frozenset[str]
    query: str


def alerts() -> list[dict[str, Any]]:
    """All alerting rules."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries(path: Path) -> Iterator[str]:
    """Panels' queries and those that fill variables, with Grafana's own variables filled in."""
    board = json.loads(path.read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield filled(target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert found is not None, variable
            yield f"count by ({found[2]}) ({filled(found[1])})"


def filled(query: str) -> str:
    """What Prometheus gets of a query: intervals and choices in the place of variables."""
    return re.sub(r"\$(\w+)", lambda found: CHOSEN[found[1]], query)


def everything() -> list[str]:
    """Every query there is."""
    return [rule["expr"] for rule in alerts()] + [query for path in DASHBOARDS for query in dashboard_queries(path)]


def selectors(query: str) -> list[Selector]:
    """The metrics of a query. Raises ValueError for one that is no PromQL."""
    return list(_selectors(promql_parser.parse(query), frozenset(), query))


def _selectors(expr: Any, wanted: frozenset[str], query: str) -> Iterator[Selector]:
    """``wanted``: labels by which what is around groups or joins."""
    match expr:
        case promql_parser.VectorSelector():
            own = {matcher.name for matcher in expr.matchers.matchers}
            yield Selector(expr.name or "", wanted | own, query)
        case promql_parser.MatrixSelector():
            yield from _selectors(expr.vector_selector, wanted, query)
        case promql_parser.Call():
            for argument in expr.args:
                yield from _selectors(argument, wanted, query)
        case promql_parser.AggregateExpr():
            inner = wanted
            if expr.modifier is not None:
                # Only these survive, so these must be there; what is around asked for some of them.
                assert expr.modifier.type == promql_parser.AggModifierType.By, query
                inner = frozenset(expr.modifier.labels)
                assert wanted <= inner, f"{sorted(wanted - inner)} is lost in {query}"
            else:
                assert not wanted, f"{sorted(wanted)} is lost in {query}"
            yield from _selectors(expr.expr, inner, query)
        case promql_parser.BinaryExpr():
            left, right = wanted, wanted
            if expr.modifier is not None and expr.modifier.matching is not None:
                joined = frozenset(expr.modifier.matching.labels)
                brought = frozenset(expr.modifier.group_labels or ())
                left, right = (wanted - brought) | joined, joined | brought
            yield from _selectors(expr.lhs, left, query)
            yield from _selectors(expr.rhs, right, query)
        case promql_parser.ParenExpr() | promql_parser.SubqueryExpr() | promql_parser.UnaryExpr():
            yield from _selectors(expr.expr, wanted, query)
        case promql_parser.NumberLiteral() | promql_parser.StringLiteral():
            return
        case _:
            raise ValueError(f"unknown part {type(expr).__name__} in {query}")
