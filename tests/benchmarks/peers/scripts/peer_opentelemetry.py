"""OpenTelemetry: log records through the batch processor and OTLP over HTTP, 512 at a time; bodies are protobuf."""

from __future__ import annotations

import harness
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor


def connect(setting: harness.Setting) -> harness.Peer:
    room = {} if setting.room is None else {"max_queue_size": setting.room}
    exporter = OTLPLogExporter(endpoint=f"{setting.url}v1/logs")
    processor = BatchLogRecordProcessor(exporter, **room)
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(processor)
    logger = provider.get_logger("benchmark")

    def track(event: harness.Event) -> None:
        logger.emit(LogRecord(body="event", attributes=event))

    return harness.Peer(track=track, flush=processor.force_flush)


if __name__ == "__main__":
    harness.main(connect)
