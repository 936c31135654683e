// Bytes that one rank could send another on a connection: frames cut anywhere, and the heads of connections and of training. The frames do not
// depend on where they were cut, their sizes are bounded, and what is taken is written alike.
import assert from "node:assert/strict";
import { AppError } from "../../../crds/common.ts";
import { decodeChunk, encodeChunk } from "../../../runtime/net/collectives/wire-codec.ts";
import { encodeFrame, FrameReader, frameBytesMax, frameKinds, headBytesMax, type RawFrame } from "../../../runtime/net/frame-codec.ts";
import { Channel } from "../../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { toSender } from "../../../runtime/net/mapping.ts";
import { decodeEnd, decodeHello, encodeEnd, encodeHello } from "../../../runtime/net/peer-connection.ts";
import {
  decodeHalfRows,
  decodeRowsFrame,
  decodeSeq,
  encodeHalfRows,
  encodeRowsFrame,
  encodeSeq,
  halfRowBytes,
} from "../../../runtime/net/rows-codec.ts";
import { type Fuzzer, unguarded } from "../fuzzer.ts";
import { damaged, type Random } from "../mutate.ts";
import { chance, number, pick, text } from "../words.ts";

interface Input {
  readonly bytes: Buffer;
  readonly cuts: readonly number[];
}

const bytesOf = (random: Random, most: number): Buffer => Buffer.from(Array.from({ length: random(most) }, () => random(256)));

/** The heads that frames have, by who writes them. */
const heads: readonly ((random: Random) => Uint8Array)[] = [
  (random) => {
    const pairs = 1 + random(6);
    const of = () => Uint32Array.from({ length: pairs }, () => random(70_000));
    const gates = chance(random, 50) ? Float32Array.from({ length: pairs }, () => number(random)) : undefined;
    const common = { seq: random(2 ** 31), layer: random(99), epoch: number(random), decode: chance(random, 50) };
    return encodeRowsFrame({ ...common, pairRows: of(), pairExperts: of(), gates });
  },
  (random) => {
    const stamp = { world: random(9), step: number(random), plan: short(random) };
    const name = { what: short(random), layer: random(9) - 1, chunk: random(9), piece: random(9) };
    return encodeChunk({ stamp, name, kind: random(4), bytes: 4 * random(100), at: chance(random, 80) ? 0 : number(random) });
  },
  (random) => {
    const sender = toSender({ deploymentUid: short(random), rank: random(70_000), podUid: short(random), bootId: "" });
    return encodeHello({ sender, channel: Channel.TRAINING, world: BigInt(random(99)), ranks: random(70_000) });
  },
  (random) => encodeEnd({ code: chance(random, 70) ? "Left" : short(random), message: text(random) }),
  (random) => encodeSeq(random(2 ** 31)),
  (random) => bytesOf(random, 80),
];

const short = (random: Random): string => text(random, 6).slice(0, 40);

function frameOf(random: Random): Uint8Array {
  const head = pick(random, heads)(random);
  const body = chance(random, 3) ? Buffer.alloc(random(40_000), 7) : bytesOf(random, 120);
  return Buffer.concat(encodeFrame({ kind: pick(random, Object.values(frameKinds)), head, body }).filter((piece) => piece !== undefined));
}

/** Frames until the bytes end, or the reason why there are no more. */
function framesOf(open: () => FrameReader, bytes: Buffer, cuts: readonly number[]): { frames: RawFrame[]; refusal: AppError | undefined } {
  const reader = open();
  const frames: RawFrame[] = [];
  let from = 0;
  try {
    for (const cut of [...new Set([...cuts.map((at) => Math.min(at, bytes.length)), bytes.length])].sort((a, b) => a - b)) {
      // The reader may give views of what it is given, which is its caller's no more.
      reader.push(Buffer.from(bytes.subarray(from, cut)), (frame) => frames.push(frame));
      from = cut;
    }
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return { frames, refusal: error };
  }
  return { frames, refusal: undefined };
}

type Subject = { readonly open: () => FrameReader; readonly connection: typeof decodeRowsFrame };
const subject: Subject = { open: () => new FrameReader(), connection: decodeRowsFrame };
const same = (one: Uint8Array, other: Uint8Array): boolean => Buffer.compare(one, other) === 0;

/** Each head as every reader of heads sees it; how many took it. */
function readHead({ connection }: Subject, { head, body }: RawFrame): number {
  const readers: readonly (() => void)[] = [
    () => {
      const frame = connection(head);
      assert.ok(frame.pairRows.length > 0 && frame.pairRows.length * 4 <= head.byteLength);
      // A gate may be a NaN, of which bits are not kept.
      if (!frame.gates?.some(Number.isNaN)) assert.ok(same(encodeRowsFrame(frame), head), "a connection's head is written alike");
    },
    () => {
      const chunk = decodeChunk(head, body.byteLength);
      assert.ok(chunk.at + body.byteLength <= chunk.bytes || chunk.bytes === 0);
    },
    () => void decodeHello(head),
    () => void decodeEnd(head),
    () => assert.ok(same(encodeSeq(decodeSeq(head)), head)),
  ];
  let taken = 0;
  for (const reader of readers) {
    try {
      reader();
      taken++;
    } catch (error) {
      if (!(error instanceof AppError && error.code === "InvalidFrame")) throw error;
    }
  }
  return taken;
}

function readRows(body: Uint8Array): void {
  const rows = decodeHalfRows(body, 8);
  assert.equal(rows.length, Math.floor(body.byteLength / halfRowBytes(8)) * 8);
  assert.equal(encodeHalfRows(rows, 8).byteLength, (rows.length / 8) * halfRowBytes(8));
}

export const frames: Fuzzer<Subject, Input> = {
  name: "frames",
  share: 200,
  deadlineMs: 5_000,
  refusals: ["InvalidFrame"],
  start: () => subject,
  input(random) {
    const whole = Buffer.concat(Array.from({ length: 1 + random(4) }, () => frameOf(random)));
    const bytes = chance(random, 50) ? whole : damaged(whole, random, 60);
    return { bytes, cuts: Array.from({ length: random(6) }, () => random(bytes.length + 1)) };
  },
  attempt(tried, { bytes, cuts }) {
    const whole = framesOf(tried.open, bytes, []);
    const pieces = framesOf(tried.open, bytes, cuts);
    assert.equal(pieces.refusal?.message, whole.refusal?.message, "where it is cut changes what is refused");
    assert.equal(pieces.frames.length, whole.frames.length, "where it is cut changes the frames");
    for (const [i, frame] of whole.frames.entries()) {
      const piece = pieces.frames[i] as RawFrame;
      assert.ok(
        frame.kind === piece.kind && same(frame.head, piece.head) && same(frame.body, piece.body),
        "where it is cut changes a frame",
      );
      assert.ok(frame.head.byteLength <= headBytesMax && frame.body.byteLength <= frameBytesMax);
      readHead(tried, frame);
      readRows(frame.body);
    }
    if (whole.refusal) throw whole.refusal;
  },
  plant: ({ open }) => ({ open, connection: unguarded(decodeRowsFrame, /epoch/) }),
};
