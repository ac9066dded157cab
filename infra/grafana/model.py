"""As much of Grafana's dashboard JSON as these dashboards need: panels in rows, queries, variables.

Every query goes to the data source and the job that the dashboard's variables name: one Grafana serves several gates.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from streams.observe.families import Family

GRID_WIDTH = 24
SCHEMA_VERSION = 41
REFRESH = "10s"
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}

Kind = Literal["timeseries", "stat", "gauge", "table", "bargauge", "state-timeline"]
GREEN, YELLOW, RED = "green", "yellow", "red"


class Query(NamedTuple):
    """One expression; ``legend`` in Grafana's ``{{label}}`` form. ``instant``: its value now, without history."""

    expr: str
    legend: str = ""
    instant: bool = False


class Panel(NamedTuple):
    """One panel. ``unit`` is Grafana's name of it; ``steps``: from which value on which colour."""

    title: str
    kind: Kind
    queries: Sequence[Query]
    unit: str = "short"
    description: str = ""
    width: int = 8
    height: int = 8
    steps: Sequence[tuple[float, str]] = ()
    maximum: float | None = None
    stacked: bool = False
    hidden: Sequence[str] = ()
    """Columns that a table leaves out."""
    empty: str = "–"
    """What stands there without data."""


class Row(NamedTuple):
    """Panels under a heading, from left to right; a line that is full is followed by another."""

    title: str
    panels: Sequence[Panel]


class Variable(NamedTuple):
    """A choice at the top: the values of ``label`` of ``family``. ``several``: more than one may be chosen."""

    name: str
    title: str
    family: Family | str
    label: str
    several: bool = False
    filters: Mapping[str, str] = {}


class Dashboard(NamedTuple):
    """One dashboard; ``uid`` is its address."""

    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = ()


def series(family: Family | str, part: str = "", /, **matchers: str) -> str:
    """A selector of the chosen job. A matcher's value may start with an operator: ``=~a|b``, ``!=a``."""
    name = family if isinstance(family, str) else f"{family.name}{part}"
    return f"{name}{{{', '.join([_JOB, *(_matcher(label, value) for label, value in matchers.items())])}}}"


def rate(family: Family | str, part: str = "", /, **matchers: str) -> str:
    """Growth a second, over what fits the screen's resolution."""
    return f"rate({series(family, part, **matchers)}[$__rate_interval])"


def quantile(share: float, family: Family, /, **matchers: str) -> str:
    """Of a histogram, over all workers."""
    return f"histogram_quantile({share}, sum by (le) ({rate(family, '_bucket', **matchers)}))"


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The JSON that Grafana reads."""
    panels: list[dict[str, Any]] = []
    y = 0
    for row in dashboard.rows:
        panels.append(_heading(row.title, len(panels) + 1, y))
        y += 1
        x = line_height = 0
        for panel in row.panels:
            if x + panel.width > GRID_WIDTH:
                x, y, line_height = 0, y + line_height, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x, line_height = x + panel.width, max(line_height, panel.height)
        y += line_height
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["tidegate"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": REFRESH,
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "utc",
        "links": [
            {
                "type": "dashboards",
                "title": "Tidegate",
                "tags": ["tidegate"],
                "asDropdown": True,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": [_DATA_SOURCES, *(_variable(one) for one in (_JOBS, *dashboard.variables))]},
        "annotations": {"list": []},
        "panels": panels,
    }


_JOB = 'job=~"$job"'
_JOBS = Variable("job", "Gate", "tidegate_build_info", "job", several=True)
_DATA_SOURCES = {"type": "datasource", "name": "datasource", "label": "Data source", "query": "prometheus", "hide": 0}


def _matcher(label: str, value: str) -> str:
    operator = next((one for one in ("=~", "!~", "!=") if value.startswith(one)), "")
    return f'{label}{operator or "="}"{value.removeprefix(operator)}"'


def _variable(variable: Variable) -> dict[str, Any]:
    name = variable.family if isinstance(variable.family, str) else variable.family.name
    own = [] if variable is _JOBS else [_JOB]
    chosen = ", ".join([*own, *(_matcher(label, value) for label, value in variable.filters.items())])
    query = (
        f"label_values({name}{{{chosen}}}, {variable.label})" if chosen else f"label_values({name}, {variable.label})"
    )
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.title,
        "datasource": DATA_SOURCE,
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": variable.several,
        "includeAll": variable.several,
        "allValue": ".*" if variable.several else None,
        "current": {"text": ["All"], "value": ["$__all"]} if variable.several else {},
        "hide": 0,
    }


def _heading(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATA_SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height},
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "targets": [_target(query, panel.kind, chr(ord("A") + n)) for n, query in enumerate(panel.queries)],
    }
    if panel.kind == "table":
        hidden = dict.fromkeys(("Time", "__name__", *panel.hidden), True)
        shown["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": {}}},
        ]
    return shown


def _field(panel: Panel) -> dict[str, Any]:
    steps = [{"color": GREEN, "value": None}, *({"color": color, "value": value} for value, color in panel.steps)]
    field: dict[str, Any] = {
        "unit": panel.unit,
        "noValue": panel.empty,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
    }
    if panel.maximum is not None:
        field |= {"min": 0, "max": panel.maximum}
    if panel.kind == "timeseries":
        field["min"] = 0
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 20 if panel.stacked else 0,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "dashed" if panel.steps else "off"},
        }
    return field


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "timeseries":
            return {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}
        case "state-timeline":
            return {"showValue": "never", "mergeValues": True, "rowHeight": 0.9, "legend": {"showLegend": False}}
        case _:
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"reduceOptions": reduced, "orientation": "auto", **_OWN_OPTIONS[panel.kind]}


_OWN_OPTIONS: Mapping[str, dict[str, Any]] = {
    "stat": {"colorMode": "value", "graphMode": "area", "textMode": "auto"},
    "gauge": {"showThresholdMarkers": True, "showThresholdLabels": False},
    "bargauge": {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True},
}


def _target(query: Query, kind: Kind, name: str) -> dict[str, Any]:
    instant = query.instant or kind == "table"
    return {
        "refId": name,
        "datasource": DATA_SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": instant,
        "range": not instant,
        "format": "table" if kind == "table" else "time_series",
    }
