// Seeded damage to files: bytes flipped, cut, overwritten with telling numbers, copied over others; and JSON whose values change kind.

/** Numbers below `below`, the same for a seed. */
export type Random = (below: number) => number;

export function seeded(seed: number): Random {
  let state = (seed * 2654435761 + 12345) >>> 0;
  return (below) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Integers that length checks get wrong: around zero, around signs, and far above any file. */
const telling = [0n, 1n, 0x7fffffffn, 0x80000000n, 0xffffffffn, 2n ** 32n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n];

/** One to four changes, in the first `span` bytes where most of a format is, or anywhere. */
export function damaged(source: Buffer, random: Random, span: number): Buffer {
  let bytes = Buffer.from(source);
  const changes = 1 + random(4);
  for (let i = 0; i < changes && bytes.length > 16; i++) {
    const at = random(Math.min(bytes.length, random(4) === 0 ? bytes.length : span) - 8);
    const from = random(bytes.length);
    const kind = random(6);
    if (kind === 0) bytes = bytes.subarray(0, random(bytes.length));
    else if (kind === 1) bytes.writeBigUInt64LE(telling[random(telling.length)] as bigint, at);
    else if (kind === 2) bytes.writeUInt32LE(Number((telling[random(telling.length)] as bigint) & 0xffffffffn), at);
    else if (kind === 3) bytes.copyWithin(at, from, from + random(64));
    else bytes[at] = (bytes[at] as number) ^ (1 << random(8));
  }
  return bytes;
}

const strange: readonly (() => unknown)[] = [
  () => null,
  () => -1,
  () => 2 ** 53,
  () => 1e308,
  () => "",
  () => "\u0000\ud800",
  () => "x".repeat(5000),
  () => [],
  () => ({}),
  () => true,
  () => JSON.parse(`${"[".repeat(200)}${"]".repeat(200)}`),
  () => ({ type: "Sequence", normalizers: [{}], pretokenizers: [{}], decoders: [{}], processors: [{}] }),
  () => ["a", "b"],
];

/** The same JSON with a few values of another kind, or without some. */
export function damagedJson(source: unknown, random: Random): unknown {
  const copy = { root: structuredClone(source) } as Record<string, unknown>;
  for (let i = 1 + random(3); i > 0; i--) {
    let holder: Record<string, unknown> = copy;
    let key = "root";
    for (let depth = random(7); depth > 0; depth--) {
      const next = holder[key];
      if (typeof next !== "object" || next === null) break;
      const keys = Object.keys(next);
      if (keys.length === 0) break;
      holder = next as Record<string, unknown>;
      key = keys[random(keys.length)] as string;
    }
    if (random(5) === 0) delete holder[key];
    else holder[key] = (strange[random(strange.length)] as () => unknown)();
  }
  return copy.root;
}
