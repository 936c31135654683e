// The maker of golden/wire/v<version>: what this version says on the wire, byte by byte, for later ones to read. `--check` fails on drift.
// From a tag on its folder stays as it is, and a change that breaks the last tag is refused, since pods of it may be running anywhere.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gatewayProcess, workerProcess } from "../../crds/process.ts";
import type { LoadWindow } from "../../crds/telemetry.ts";
import { encodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import packageJson from "../../package.json" with { type: "json" };
import { file_enodia_runtime_v1_runtime as wire } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { signedLoad, telemetryKey } from "../kit/ranks/telemetry-keys.ts";
import { filesAtLastTag, lastTag } from "./last-tag.ts";
import { breaks, describe, described, samplesOf } from "./wire-contract.ts";

const root = join(import.meta.dirname, "wire");

/** The load window that is signed in `load.bin`. */
export const goldenWindow: LoadWindow = {
  v: 1,
  deploymentUID: "uid",
  rank: 3,
  bootId: "boot",
  seq: 7,
  windowStart: 1_800_000_000_000,
  windowEnd: 1_800_000_005_000,
  phase: "decode",
  layers: 2,
  experts: 2,
  seconds: { dense: 0.5, experts: 0.25 },
  routed: Uint32Array.of(1, 2, 3, 4),
  served: Uint32Array.of(5, 6, 7, 8),
  compute: { runs: 1, calls: 2, rows: 3, micros: 4, squares: [1, 2, 3, 4, 5, 6], times: [7, 8, 9], machine: "m" },
};

/** Variables that a process of this release is started with: an operator that renders its pods anew has to set them. */
const variables = (rows: object): string[] => Object.values(rows).flatMap((row) => ("render" in row ? [row.variable] : []));

function files(): Map<string, Uint8Array | string> {
  const samples = samplesOf(wire);
  const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
  return new Map<string, Uint8Array | string>([
    ...samples.map(({ name, bytes }) => [`${name}.bin`, bytes] as const),
    ["values.json", json(Object.fromEntries(samples.map(({ name, value }) => [name, value])))],
    ["descriptor.bin", describe(wire)],
    ["load.bin", signedLoad(goldenWindow)],
    ["telemetry-keys.json", encodeTelemetryKeys([telemetryKey(2), telemetryKey(1)])],
    ["variables.json", json({ worker: variables(workerProcess), gateway: variables(gatewayProcess) })],
  ]);
}

function main(check: boolean): void {
  const folder = join(root, `v${packageJson.version}`);
  const tagged = filesAtLastTag(`test/golden/wire/${lastTag}`).get(`test/golden/wire/${lastTag}/descriptor.bin`);
  const broken = tagged === undefined ? [] : breaks(described(tagged), wire.proto);
  if (broken.length > 0) {
    process.stderr.write(`${broken.join("\n")}\nA field has its number and type for ever: reserve what is no longer used, and add another\n`);
    process.exitCode = 1;
    return;
  }
  const made = files();
  const there = existsSync(folder) ? readdirSync(folder) : [];
  const stale = [...made].filter(([name, content]) => !there.includes(name) || !readFileSync(join(folder, name)).equals(Buffer.from(content)));
  if (check) {
    const drift = stale.length > 0 || there.some((name) => !made.has(name));
    if (drift) process.stderr.write(`${folder} is out of date: run node test/golden/make_wire.ts\n`);
    process.exitCode = drift ? 1 : 0;
    return;
  }
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of made) writeFileSync(join(folder, name), content);
}

if (import.meta.main) main(process.argv.includes("--check"));
