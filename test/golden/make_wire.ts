// The maker of golden/wire/v<version>: what this release says on the wire, byte by byte, for later releases to read. `--check` fails on
// drift. A folder grows with its release and is not touched by the next; what it has is never changed: a change that breaks it is
// refused, since pods of that release may be running anywhere.
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gatewayProcess, workerProcess } from "../../crds/process.ts";
import type { LoadWindow } from "../../crds/telemetry.ts";
import { encodeTelemetryKeys } from "../../crds/telemetry-keys.ts";
import packageJson from "../../package.json" with { type: "json" };
import { file_enodia_runtime_v1_runtime as wire } from "../../runtime/net/gen/enodia/runtime/v1/runtime_pb.js";
import { signedLoad, telemetryKey } from "../kit/ranks/telemetry-keys.ts";
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
  transitions: { cells: Uint32Array.of(1, 3), counts: Uint32Array.of(9, 10) },
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
  const descriptor = join(folder, "descriptor.bin");
  const broken = existsSync(descriptor) ? breaks(described(readFileSync(descriptor)), wire.proto) : [];
  if (broken.length > 0) {
    process.stderr.write(`${broken.join("\n")}\nA field has its number and type for ever: reserve what is no longer used, and add another\n`);
    process.exitCode = 1;
    return;
  }
  const made = files();
  const there = existsSync(folder) ? readdirSync(folder) : [];
  const stale = [...made].filter(([name, content]) => !there.includes(name) || !readFileSync(join(folder, name)).equals(Buffer.from(content)));
  if (check) {
    if (stale.length > 0) process.stderr.write(`${folder} is out of date: run node test/golden/make_wire.ts\n`);
    process.exitCode = stale.length > 0 ? 1 : 0;
    return;
  }
  mkdirSync(folder, { recursive: true });
  for (const [name, content] of stale) writeFileSync(join(folder, name), content);
}

if (import.meta.main) main(process.argv.includes("--check"));
