import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type DescMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf";
import { DescribeReplySchema, SnapshotReplySchema, WatchStatusSchema } from "./gen/enodia/runtime/v1/runtime_pb.js";
import { countValues } from "./message-bounds.ts";

const bytesOf = <S extends DescMessage>(schema: S, init: MessageInitShape<S>): [S, Uint8Array] => [
  schema,
  toBinary(schema, create(schema, init)),
];
const many = <T>(length: number, value: T): T[] => Array(length).fill(value);
const valuesMax = 10_000;
const cases: Record<string, { message: [DescMessage, Uint8Array]; refused: boolean }> = {
  "a status of some layers": {
    message: bytesOf(WatchStatusSchema, { hosted: many(58, { layer: 1, epoch: 3n, experts: many(64, 300) }) }),
    refused: false,
  },
  "a description": { message: bytesOf(DescribeReplySchema, { storedBytes: many(1_200, 1n << 40n), podName: "p" }), refused: false },
  "a status with load, whose bytes are no numbers": {
    message: bytesOf(WatchStatusSchema, { load: many(2, new Uint8Array(180_000).fill(65)) }),
    refused: false,
  },
  "empty messages": { message: [WatchStatusSchema, new Uint8Array(4 * 2 ** 20).map((_, i) => (i % 2 ? 0 : (13 << 3) | 2))], refused: true },
  "packed numbers": { message: bytesOf(DescribeReplySchema, { storedBytes: many(1_251, 1n << 40n) }), refused: true },
  "numbers of a message in a list": {
    message: bytesOf(WatchStatusSchema, { hosted: many(2, { experts: many(5_001, 300) }) }),
    refused: true,
  },
  "messages two levels down": { message: bytesOf(SnapshotReplySchema, { plan: { layers: many(1_200, {}) } }), refused: true },
};

for (const [sentence, { message, refused }] of Object.entries(cases)) {
  test(`${sentence}: ${refused ? "refused before it is decoded" : "taken"}`, () => {
    const check = () => countValues(...message, valuesMax);
    if (refused) assert.throws(check, { code: "InvalidRequest", message: /: more than 10000 values$/ });
    else check();
  });
}
