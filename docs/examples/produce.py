"""Sends one reading of two racks' cooling: python produce.py BROKER   (pip install confluent-kafka pyarrow)"""
import datetime, socket, sys, time
import pyarrow as pa
from confluent_kafka import Producer

host, now = socket.gethostname(), datetime.datetime.now(datetime.timezone.utc)
rows = pa.table({
    "ts": pa.array([now, now], pa.timestamp("us", "UTC")), "node": ["site-1"] * 2, "host": [host] * 2,
    "rack": ["A1", "A2"], "inlet_celsius": [18.5, 18.7], "outlet_celsius": [31.25, None], "pumped_litres": [48210, 47950],
})
stream = pa.BufferOutputStream()
with pa.ipc.new_stream(stream, rows.schema) as writer:
    writer.write_table(rows)

failed = []
headers = {"table": "cooling", "schema": "1", "agent": f"cooling@{host}", "boot": str(time.time_ns()), "seq": "0"}
producer = Producer({"bootstrap.servers": sys.argv[1], "enable.idempotence": True, "compression.type": "zstd"})
producer.produce("telemetry", stream.getvalue().to_pybytes(), host, headers=headers,
                 on_delivery=lambda error, _: failed.append(str(error)) if error else print("sent", rows.num_rows, "rows"))
sys.exit("the broker does not answer" if producer.flush(30) else "\n".join(failed) or None)
