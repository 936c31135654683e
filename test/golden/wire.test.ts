// This release reads what every release has said on the wire, also with fields in it that a later one may add. An operator works with
// workers and gateways of the releases before it, since they keep their image until their owner asks for another.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { clone, create, type DescMessage, fromBinary, type JsonObject, toBinary, toJson } from "@bufbuild/protobuf";
import { type FileDescriptorProto, FieldDescriptorProto_Type as Type } from "@bufbuild/protobuf/wkt";
import { FileDescriptorProtoSchema, DescriptorProto_ReservedRangeSchema as ReservedSchema } from "@bufbuild/protobuf/wkt";
import { gatewayProcess, workerProcess } from "../../crds/process.ts";
import { decodeLoad } from "../../crds/telemetry.ts";
import { decodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import {
  DescribeReplySchema,
  WatchPushSchema,
  WatchStatusSchema,
  file_enodia_runtime_v1_runtime as wire,
} from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { openLoad, signLoad } from "../../runtime/net/load-signature.ts";
import { telemetryKey } from "../kit/ranks/telemetry-keys.ts";
import { goldenWindow } from "./make_wire.ts";
import { breaks, described } from "./wire-contract.ts";

const root = join(import.meta.dirname, "wire");
/** Field 1000 with the text "later": of a release that is not there yet. */
const unknownField = Uint8Array.from([0xc2, 0x3e, 5, ...Buffer.from("later")]);

for (const version of readdirSync(root)) {
  const bytes = (name: string): Buffer => readFileSync(join(root, version, name));
  const json = (name: string) => JSON.parse(bytes(name).toString());
  const before = described(bytes("descriptor.bin"));
  const values = Object.entries(json("values.json")) as [string, JsonObject][];

  test(`${version}: no field, number, type or call of the wire is gone or has changed`, () => {
    assert.deepEqual(breaks(before, wire.proto), []);
  });

  test(`${version}: every message is read with the values that were sent, and with a field that is not known`, () => {
    assert.deepEqual([...new Set(values.map(([name]) => messageOf(name)))], before.messageType.map(({ name }) => name));
    for (const [name, value] of values) {
      const message = wire.messages.find((one) => one.name === messageOf(name));
      if (!message) continue; // said by the test before
      const sent = bytes(`${name}.bin`);
      for (const received of [sent, Buffer.concat([sent, unknownField]), Buffer.concat([unknownField, sent])])
        assert.deepEqual(toJson(message, fromBinary(message, received)), stillUsed(message, value), name);
    }
  });

  test(`${version}: a load message is opened with its key and read, and with a field that is not known`, () => {
    const opened = openLoad(bytes("load.bin"), [telemetryKey(2), telemetryKey(1)]);
    assert.ok(opened.ok);
    assert.deepEqual(decodeLoad(opened.body), goldenWindow);
    assert.match(bytes("load.bin").toString(), /^enodia-load 0000000000000001 [\w-]{43}\n\{"v":1,/);
    const later = signLoad(JSON.stringify({ ...JSON.parse(Buffer.from(opened.body).toString()), later: 1 }), telemetryKey(1));
    const more = openLoad(Buffer.from(later), [telemetryKey(1)]);
    assert.ok(more.ok);
    assert.deepEqual(decodeLoad(more.body), goldenWindow);
  });

  test(`${version}: the keys of load messages are read as they stand in a Secret`, () => {
    assert.deepEqual(decodeTelemetryKeys(bytes("telemetry-keys.json").toString()), [telemetryKey(2), telemetryKey(1)]);
  });

  test(`${version}: a pod that is rendered for it has every variable that it was started with`, () => {
    const rendered = (rows: object) => Object.values(rows).flatMap((row) => ("render" in row ? [row.variable] : []));
    const { worker, gateway } = json("variables.json");
    const missing = (names: string[], rows: object) => names.filter((name) => !rendered(rows).includes(name));
    assert.deepEqual([missing(worker, workerProcess), missing(gateway, gatewayProcess)], [[], []]);
  });
}

const messageOf = (name: string): string => name.split(".")[0] ?? "";

/** The values of a former release less those of numbers that are reserved by now. */
function stillUsed(message: DescMessage, value: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(value).flatMap(([name, inner]) => {
      const field = message.fields.find(({ jsonName }) => jsonName === name);
      if (!field) return [];
      const { message: nested } = field;
      if (!nested) return [[name, inner]];
      const kept = (one: unknown) => stillUsed(nested, one as JsonObject);
      return [[name, Array.isArray(inner) ? inner.map(kept) : kept(inner)]];
    }),
  );
}

test("fields that the operator relies on have the numbers they have, by hand", () => {
  const bytes = (...list: number[]): Uint8Array => Uint8Array.from(list);
  assert.equal(fromBinary(WatchPushSchema, bytes((5 << 3) | 0, 9)).sentUnixMs, 9n);
  assert.equal(fromBinary(WatchPushSchema, bytes((6 << 3) | 2, 1, 0x61)).logLevel, "a");
  const { clock } = fromBinary(WatchStatusSchema, bytes(0x8a, 0x01, 4, (1 << 3) | 0, 7, (2 << 3) | 0, 8));
  assert.deepEqual([clock?.pingUnixMs, clock?.unixMs], [7n, 8n]);
  const { maxContext, kvSlots } = fromBinary(DescribeReplySchema, bytes(0x98, 0x01, 11, 0xa0, 0x01, 12));
  assert.deepEqual([maxContext, kvSlots], [11, 12]);
});

test("a push of a kind that is not known yet is none, not an error", () => {
  const later = Buffer.concat([toBinary(WatchPushSchema, create(WatchPushSchema, { sentUnixMs: 1n })), unknownField]);
  assert.equal(fromBinary(WatchPushSchema, later).push.case, undefined);
});

/** Changes of a description, and what is said of each; nothing where it breaks nobody. */
const edits: Readonly<Record<string, { readonly change: (file: FileDescriptorProto) => unknown; readonly said: readonly string[] }>> = {
  "a field with another number": {
    change: (file) => Object.assign(field(file, "WatchPush", "sent_unix_ms"), { number: 55 }),
    said: ["WatchPush.sent_unix_ms = 5 is gone and its number is not reserved"],
  },
  "a field of another type": {
    change: (file) => Object.assign(field(file, "DescribeReply", "kv_slots"), { type: Type.STRING }),
    said: ["DescribeReply.kv_slots = 20 is now kv_slots or of another type"],
  },
  "a number that another field has": {
    change: (file) => Object.assign(field(file, "WatchStatus", "clock"), { name: "time" }),
    said: ["WatchStatus.clock = 17 is now time or of another type"],
  },
  "a field that has left its choice": {
    change: (file) => Reflect.deleteProperty(field(file, "WatchPush", "ping"), "oneofIndex"),
    said: ["WatchPush.ping = 4 is now ping or of another type"],
  },
  "a field that is gone": {
    change: (file) => drop(file, "Token", "logprob"),
    said: ["Token.logprob = 3 is gone and its number is not reserved"],
  },
  "a field that is gone, with its number reserved": {
    change: (file) => drop(file, "Token", "logprob").reservedRange.push(create(ReservedSchema, { start: 3, end: 4 })),
    said: [],
  },
  "a number that is no longer reserved": {
    change: (file) => message(file, "Finish").reservedRange.pop(),
    said: ["Finish: number 2 is no longer reserved, and former releases give it a meaning"],
  },
  "an enum's value with another number": {
    change: (file) => Object.assign(file.enumType[0]?.value[1] ?? {}, { number: 9 }),
    said: ["FinishReason: FINISH_REASON_STOP = 1 is gone or has another number"],
  },
  "a call that answers with a stream": {
    change: (file) => Object.assign(file.service.at(-1)?.method[0] ?? {}, { serverStreaming: true }),
    said: ["Control.Describe is gone or takes or gives something else"],
  },
  "a message more": { change: (file) => file.messageType.push({ ...message(file, "Token"), name: "Later" }), said: [] },
};

const message = (file: FileDescriptorProto, name: string) => file.messageType.find((one) => one.name === name) ?? assert.fail(name);
const field = (file: FileDescriptorProto, of: string, name: string) =>
  message(file, of).field.find((one) => one.name === name) ?? assert.fail(name);
function drop(file: FileDescriptorProto, of: string, name: string) {
  const found = message(file, of);
  found.field = found.field.filter((one) => one.name !== name);
  return found;
}

for (const [name, { change, said }] of Object.entries(edits)) {
  test(`${name} ${said.length > 0 ? "breaks former releases, and it is said of it" : "breaks nobody"}`, () => {
    const edited = clone(FileDescriptorProtoSchema, wire.proto);
    change(edited);
    assert.deepEqual(breaks(wire.proto, edited), said);
  });
}
