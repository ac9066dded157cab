"""The Grafana dashboards: written in Python, kept as the JSON that Grafana provisions (`python -m infra.grafana`)."""
