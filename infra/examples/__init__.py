"""Programs to start from: pipelines, an executor, a subscriber for operators. See the README beside."""
