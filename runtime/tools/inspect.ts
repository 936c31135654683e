// `enodia model inspect`: what a store holds, in numbers; with `verify`, every byte against its hash. Reads, never writes.
import { AppError } from "../../crds/common.ts";
import type { CodecName } from "../../crds/names.ts";
import { codecsOf, type ModelStore } from "../weights/store.ts";
import { openStore } from "../weights/store-reader.ts";
import type { Log } from "./files.ts";

interface CodecReport {
  /** The bytes of the largest unit. */
  readonly unitBytes: number;
  readonly units: number;
  readonly totalBytes: number;
  readonly distinctHashes: number;
}

export interface InspectReport {
  readonly dir: string;
  readonly architecture: string;
  readonly modelDigest: string;
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  readonly hidden: number;
  /** Unset where layers have experts of their own shapes. */
  readonly ffn?: number;
  readonly denseTensors: number;
  readonly codecs: Partial<Record<CodecName, CodecReport>>;
  /** The units and dense tensors that were compared with their hashes (a mismatch throws); undefined when that was not asked for. */
  readonly verified?: { readonly units: number; readonly denseTensors: number };
}

async function verifyAll(store: ModelStore, log: Log): Promise<{ readonly units: number; readonly denseTensors: number }> {
  for (const name of store.denseNames) await store.readDense(name);
  const missing = Object.keys(store.index.dense).find((name) => !store.denseNames.includes(name));
  if (missing)
    throw new AppError(`${store.dir}: dense tensor "${missing}" is listed but not stored; import the model again`, {
      code: "CorruptShard",
    });
  log(`${store.denseNames.length} dense tensors match their hashes`);
  let units = 0;
  for (const codec of codecsOf(store.index)) {
    for (let layer = 0; layer < store.index.layers; layer++) {
      for (let expert = 0; expert < (store.layerShapes[layer]?.experts ?? 0); expert++) {
        await store.readUnit(layer, expert, codec);
        units++;
      }
    }
    log(`${codec} experts match their hashes`);
  }
  return { units, denseTensors: store.denseNames.length };
}

export async function inspect(options: { readonly dir: string; readonly verify: boolean }, log: Log): Promise<InspectReport> {
  const store = await openStore(options.dir);
  try {
    const { index } = store;
    const codecs: Partial<Record<CodecName, CodecReport>> = {};
    for (const name of codecsOf(index)) {
      const units = index.codecs[name]?.units.flat() ?? [];
      const unitBytes = units.reduce((most, { bytes }) => Math.max(most, bytes), 0);
      const totalBytes = units.reduce((sum, { bytes }) => sum + bytes, 0);
      codecs[name] = { unitBytes, totalBytes, units: units.length, distinctHashes: new Set(units.map((unit) => unit.sha256)).size };
    }
    const { architecture, modelDigest, layers, experts, topK, hidden, ffn } = index;
    const report = {
      dir: store.dir,
      architecture,
      modelDigest,
      layers,
      experts,
      topK,
      hidden,
      ...(ffn === undefined ? {} : { ffn }),
      denseTensors: store.denseNames.length,
      codecs,
    };
    return options.verify ? { ...report, verified: await verifyAll(store, log) } : report;
  } finally {
    await store.close();
  }
}

/** The report as a person reads it. Pure. */
export function formatReport(report: InspectReport): string {
  const lines = [
    `model        ${report.dir}`,
    `architecture ${report.architecture}`,
    `digest       ${report.modelDigest}`,
    `layers       ${report.layers}`,
    `experts      ${report.experts} a layer, top-${report.topK}`,
    `dimensions   hidden ${report.hidden}${report.ffn === undefined ? "" : `, ffn ${report.ffn}`}`,
    `dense part   ${report.denseTensors} tensors`,
  ];
  for (const [name, codec] of Object.entries(report.codecs)) {
    lines.push(
      `codec ${name.padEnd(6)} ${(codec.unitBytes / 1e6).toFixed(2)} MB an expert, ${(codec.totalBytes / 1e6).toFixed(0)} MB in all, ${codec.distinctHashes} of ${codec.units} hashes distinct`,
    );
  }
  if (report.verified)
    lines.push(`verified     ${report.verified.units} expert units and ${report.verified.denseTensors} dense tensors match their hashes`);
  return lines.join("\n");
}
