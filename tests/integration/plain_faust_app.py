"""The gate's job as a plain Faust application: a table per account, an agent that counts and approves.

``python -m tests.integration.plain_faust_app BROKER_URL APP_ID PREFIX DATA_DIR``. What Tidegate does not do, and why.
"""

import sys

import faust


def create_app(broker: str, app_id: str, prefix: str, data_dir: str) -> faust.App:
    """Faust as its guide shows it, with RocksDB tables. Only the commit interval is longer than by default (2.8 s), so
    that a test hits the window between two commits every time, and the session shorter, so that it need not wait."""
    app = faust.App(
        app_id,
        broker=broker,
        store="rocksdb://",
        datadir=data_dir,
        topic_partitions=1,
        web_enabled=False,
        broker_commit_interval=60.0,
        broker_session_timeout=6.0,
        broker_heartbeat_interval=2.0,
    )
    signals = app.topic(f"{prefix}signals", key_type=bytes, value_serializer="json")
    approved = app.topic(f"{prefix}approved-orders", key_type=bytes, value_serializer="json")
    counts = app.Table("counts", default=int, key_type=bytes, value_type=int, partitions=1)

    @app.agent(signals)
    async def gate(stream: faust.Stream[dict[str, str]]) -> None:
        async for account, signal in stream.items():
            counts[account] += 1
            await approved.send(key=account, value={"id": signal["id"], "counts": {"signals": counts[account]}})

    return app


if __name__ == "__main__":
    faust.Worker(create_app(*sys.argv[1:]), loglevel="INFO").execute_from_commandline()
