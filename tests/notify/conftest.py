"""The real broker of the integration tests, for those tests here that need one."""

from tests.integration.conftest import kafka, topics

__all__ = ["kafka", "topics"]
