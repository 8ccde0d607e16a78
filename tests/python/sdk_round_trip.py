"""The OpenTelemetry Python SDK, and OTLP JSON to the letter, through a running federation.

Sends over OTLP gRPC to one region, OTLP HTTP (protobuf, gzip) to another and hand-written OTLP JSON
to a third; reads the traces back through a gateway and compares span by span, field by field, with
what left the SDK.

    python sdk_round_trip.py --grpc HOST:PORT --http URL --json URL --gateway URL
"""

import argparse
import base64
import json
import sys
import time
import urllib.error
import urllib.request

from google.protobuf import json_format
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

PATIENCE_SECONDS = 30


def provider(service, exporter):
    """A provider that exports, and keeps what it exported."""
    resource = Resource.create({"service.name": service, "deployment.environment": "test"})
    made = TracerProvider(resource=resource)
    kept = InMemorySpanExporter()
    made.add_span_processor(SimpleSpanProcessor(kept))
    made.add_span_processor(SimpleSpanProcessor(exporter))
    return made, kept


def shop(web, cart):
    """A request that begins in one region and goes on in another; gives its trace id."""
    tracer, other = web.get_tracer("web-lib", "1.2"), cart.get_tracer("cart-lib")
    with tracer.start_as_current_span("GET /cart", kind=SpanKind.SERVER) as root:
        root.set_attributes({"int": -5, "float": 2.5, "bool": True, "list": ["a", "b"], "text": "ü€😀"})
        link = Link(root.get_span_context(), {"why": "follows"})
        with other.start_as_current_span("load", kind=SpanKind.CLIENT, links=[link]) as child:
            child.add_event("miss", {"key": "c-1", "size": 2**40})
            child.set_status(Status(StatusCode.ERROR, "no such cart"))
        return root.get_span_context().trace_id


def spans_of(data):
    """Every span with its resource, its scope and their schemas, as comparable bytes, by span id."""
    found = {}
    for resource in data.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                assert span.span_id.hex() not in found, f"twice: {span}"
                found[span.span_id.hex()] = (
                    resource.resource.SerializeToString(deterministic=True),
                    resource.schema_url,
                    scope.scope.SerializeToString(deterministic=True),
                    scope.schema_url,
                    span.SerializeToString(deterministic=True),
                )
    return found


def read(gateway, trace_id, accept):
    """A trace from our own API; None while it is not there."""
    url = f"{gateway}/api/farspan/v1/traces/{trace_id}"
    request = urllib.request.Request(url, headers={"accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()
    except urllib.error.HTTPError:
        return None


def eventually(what, check):
    """Waits until the check gives a true value."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        value = check()
        if value:
            return value
        time.sleep(0.05)
    sys.exit(f"FAILED: {what}: not within {PATIENCE_SECONDS} s")


def check_sdk(options):
    """What the SDK sent is what comes back."""
    grpc = GrpcExporter(endpoint=options.grpc, insecure=True)
    http = HttpExporter(endpoint=f"{options.http}/v1/traces", compression=Compression.Gzip)
    (web, kept_web), (cart, kept_cart) = provider("web", grpc), provider("cart", http)
    trace_id = f"{shop(web, cart):032x}"
    sent = spans_of(encode_spans(kept_web.get_finished_spans()))
    sent |= spans_of(encode_spans(kept_cart.get_finished_spans()))

    def is_equal():
        body = read(options.gateway, trace_id, "application/x-protobuf")
        return body is not None and spans_of(TracesData.FromString(body)) == sent

    eventually("the SDK's spans come back equal", is_equal)
    print(f"ok: {len(sent)} spans of the Python SDK over gRPC and HTTP came back equal")


def decoded(export):
    """What an export in OTLP JSON stands for. Its ids are hex, where proto3 JSON has base64."""

    def with_base64_ids(node):
        if isinstance(node, list):
            return [with_base64_ids(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else with_base64_ids(value)
            for key, value in node.items()
        }

    return json_format.ParseDict(with_base64_ids(export), TracesData(), ignore_unknown_fields=True)


def json_export(trace_id, start):
    """One span with everything that a span has, to the letter of OTLP JSON."""
    value = lambda key, of: {"key": key, "value": of}
    nested = {"kvlistValue": {"values": [value("x", {"arrayValue": {"values": [
        {"boolValue": True}, {"stringValue": ""}, {}]}})]}}
    span = {
        "traceId": trace_id,
        "spanId": "eee19B7EC3C1B174",
        "parentSpanId": "EEE19b7ec3c1b173",
        "traceState": "a=b",
        "flags": 257,
        "name": "json",
        "kind": 2,
        "startTimeUnixNano": str(start),
        "endTimeUnixNano": start + 1000,
        "attributes": [
            value("n", {"intValue": "9007199254740993"}),
            value("m", {"intValue": 7}),
            value("d", {"doubleValue": 2.5}),
            value("b", {"bytesValue": "AAEC"}),
            value("deep", nested),
        ],
        "droppedAttributesCount": 1,
        "events": [{"timeUnixNano": str(start + 1), "name": "e",
                    "attributes": [value("k", {"stringValue": "v"})]}],
        "links": [{"traceId": "5b8efff798038103d269b633813fc60d", "spanId": "EEE19B7EC3C1B175",
                   "traceState": "c=d", "flags": 1,
                   "attributes": [value("why", {"stringValue": "follows"})]}],
        "status": {"code": 2, "message": "bad"},
        "aFieldOfTheFuture": {"x": [1, 2, {"y": None}]},
    }
    scope = {"name": "s", "version": "1", "attributes": [value("a", {"boolValue": False})]}
    service = value("service.name", {"stringValue": "json-service"})
    return {"resourceSpans": [{
        "resource": {"attributes": [service], "droppedAttributesCount": 2},
        "scopeSpans": [{"scope": scope, "spans": [span], "schemaUrl": "https://schema.example/s"}],
        "schemaUrl": "https://schema.example/r",
    }]}


def check_json(options):
    """OTLP JSON: ids in both cases, numbers as texts and numbers, unknown fields."""
    start = time.time_ns()
    trace_id = f"5B8EFFF798038103{start:016x}"
    export = json_export(trace_id, start)
    request = urllib.request.Request(
        f"{options.json}/v1/traces",
        data=json.dumps(export).encode(),
        headers={"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200 and json.loads(answer.read() or b"{}") == {}, "full success"
    sent = spans_of(decoded(export))

    def is_equal():
        body = read(options.gateway, trace_id.lower(), "application/x-protobuf")
        return body is not None and spans_of(TracesData.FromString(body)) == sent

    eventually("the JSON span comes back equal as protobuf", is_equal)
    shown = json.loads(read(options.gateway, trace_id.lower(), "application/json"))
    assert spans_of(decoded({"resourceSpans": shown["resourceSpans"]})) == sent, shown
    print("ok: OTLP JSON came back to the letter, as protobuf and as JSON")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("grpc", "http", "json", "gateway"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    trace.set_tracer_provider(TracerProvider())
    check_sdk(options)
    check_json(options)


if __name__ == "__main__":
    main()
