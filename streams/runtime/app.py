"""The Faust app: its ``gate`` agent, fed by the reader through a channel, runs several partitions at once."""

import faust
from faust.app.base import BootStrategy
from faust.types import StreamT

from streams.runtime import kafka
from streams.runtime.channel import PrivateChannel
from streams.runtime.policies import Policies
from streams.runtime.reader import Work
from streams.runtime.settings import Settings, SettingsError


def create_app(
    settings: Settings, policies: Policies, *, with_consumer: bool = False
) -> tuple[faust.App, PrivateChannel[Work]]:
    """The app and the channel into its gate.

    ``with_consumer``: start Faust's own consumer too, for agents whose work may be repeated (mirrors, notifications).
    The money path does not use it. The web server is off. Raises SettingsError if the data directory cannot be made.
    """
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"TIDEGATE_DATA_DIR {settings.data_dir} cannot be used: {error.strerror}") from error

    class Boot(BootStrategy):
        enable_kafka = with_consumer
        enable_web = False

    class App(faust.App):
        BootStrategy = Boot

    app = App(
        f"{settings.topic_prefix}{settings.app_id}-faust",
        broker=settings.broker,
        broker_credentials=kafka.faust_credentials(settings),
        datadir=settings.data_dir / "faust",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=not with_consumer,
    )
    channel = PrivateChannel[Work](app)

    @app.agent(channel, name="gate", concurrency=settings.concurrency)
    async def gate(batches: StreamT[Work]) -> None:
        async for work in batches:
            await work.run(policies)

    return app, channel
