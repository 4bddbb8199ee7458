"""Prints every row of a table that Kafka still holds: python consume.py BROKER [TABLE]"""
import sys
import pyarrow as pa
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

broker, table = sys.argv[1], (sys.argv + ["cooling"])[2]
consumer = Consumer({"bootstrap.servers": broker, "group.id": "example", "enable.auto.commit": False,
                     "enable.partition.eof": True})
unfinished = set(consumer.list_topics("telemetry", 10).topics["telemetry"].partitions)
consumer.assign([TopicPartition("telemetry", partition, OFFSET_BEGINNING) for partition in unfinished])
while unfinished:
    record = consumer.poll(30)
    if record is None:
        sys.exit("the broker does not answer")
    elif record.error() and record.error().code() == KafkaError._PARTITION_EOF:
        unfinished.discard(record.partition())
    elif record.error():
        raise KafkaException(record.error())
    elif dict(record.headers() or []).get("table") == table.encode():
        print(*pa.ipc.open_stream(record.value()).read_all().to_pylist(), sep="\n")
consumer.close()
