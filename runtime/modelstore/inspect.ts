// `enodia model inspect`: summarises a store; options verify all hashes and weights, or check a backend.
import { stat } from "node:fs/promises";
import { join } from "node:path";
import { AppError } from "../../crds/common.ts";
import type { BackendName, CodecName } from "../../crds/names.ts";
import { checkOps } from "../compute/call-checks.ts";
import { capabilitiesOf } from "../compute/index.ts";
import { segmentsOf } from "../kernels/check-program.ts";
import { programOf } from "../models/index.ts";
import { loadTokenizer } from "../text/tokenizer.ts";
import { sha256Hex } from "../weights/digest.ts";
import { openFile } from "../weights/file.ts";
import { codecsOf, type ModelStore } from "../weights/store.ts";
import { indexFile, openStore } from "../weights/store-reader.ts";
import { checkWeights } from "../weights/weight-check.ts";
import type { Log } from "./companions.ts";
import { type DenseReport, formatDense, inspectDense, isDenseFolder } from "./inspect-dense.ts";
import { inFolder } from "./model-config.ts";

interface CodecReport {
  /** The largest unit. */
  readonly unitBytes: number;
  readonly units: number;
  readonly totalBytes: number;
  readonly distinctHashes: number;
  /** Set for codec `source`. */
  readonly types?: readonly string[];
}

interface StoreReport {
  readonly kind: "store";
  readonly dir: string;
  readonly architecture: string;
  readonly modelDigest: string;
  readonly layers: number;
  readonly experts: number;
  readonly topK: number;
  readonly hidden: number;
  /** Unset where layers differ. */
  readonly ffn?: number;
  readonly denseTensors: number;
  /** The ggml types of dense matrices in blocks. */
  readonly denseTypes: readonly string[];
  readonly codecs: Partial<Record<CodecName, CodecReport>>;
  /** Undefined when none was checked. */
  readonly backend?: BackendName;
  /** Undefined without `verify`; a mismatch throws. */
  readonly verified?: Verified;
}

interface Verified {
  readonly units: number;
  readonly denseTensors: number;
  readonly files: number;
}

export type InspectReport = StoreReport | DenseReport;

/** Loads the tokenizer as a gateway does. */
async function verifyFiles(store: ModelStore, log: Log): Promise<number> {
  const files = Object.entries(store.index.files ?? {});
  for (const [name, hash] of files) {
    const file = await openFile(join(store.dir, name), "CorruptShard");
    try {
      if (sha256Hex(await file.read(0, file.size)) === hash) continue;
    } finally {
      await file.close();
    }
    throw new AppError(`${file.path}: does not match its hash; the store was changed or damaged, import the model again`, {
      code: "CorruptShard",
    });
  }
  const { vocab } = await loadTokenizer(store.dir);
  log(`the tokenizer serves a vocabulary of ${vocab}; ${files.length} files beside the weights match their hashes`);
  return files.length;
}

async function verifyDense(store: ModelStore, name: string): Promise<void> {
  const weight = await store.readDense(name);
  checkWeights(store.dir, `dense tensor "${name}"`, weight);
}

async function verifyAll(store: ModelStore, log: Log): Promise<Verified> {
  const files = await verifyFiles(store, log);
  for (const name of store.denseNames) await verifyDense(store, name);
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
        const matrices = store.decodeUnit(await store.readUnit(layer, expert, codec), codec, layer, expert);
        for (const [name, weight] of Object.entries(matrices))
          checkWeights(store.dir, `${name} of expert ${expert} of layer ${layer} (${codec})`, weight);
        units++;
      }
    }
    log(`${codec} experts match their hashes`);
  }
  return { units, denseTensors: store.denseNames.length, files };
}

/** Throws AppError `UnsupportedOp` or `UnsupportedShape` as a worker would on opening the model. */
async function checkBackend(store: ModelStore, backend: BackendName): Promise<void> {
  const capabilities = await capabilitiesOf(backend);
  const program = inFolder(store.dir, () => programOf(store.config));
  inFolder(store.dir, () => {
    for (const segment of segmentsOf(program)) checkOps(capabilities, `backend ${backend}`, segment);
  });
}

export interface InspectOptions {
  readonly dir: string;
  readonly verify: boolean;
  readonly backend?: BackendName | undefined;
}

export async function inspect(options: InspectOptions, log: Log): Promise<InspectReport> {
  const isStore = await stat(join(options.dir, indexFile)).then(Boolean, () => false);
  if (!isStore && (await isDenseFolder(options.dir))) return inspectDense(options, log);
  const store = await openStore(options.dir);
  try {
    const { index } = store;
    if (options.backend) await checkBackend(store, options.backend);
    const codecs: Partial<Record<CodecName, CodecReport>> = {};
    for (const name of codecsOf(index)) {
      const units = index.codecs[name]?.units.flat() ?? [];
      const unitBytes = units.reduce((most, { bytes }) => Math.max(most, bytes), 0);
      const totalBytes = units.reduce((sum, { bytes }) => sum + bytes, 0);
      const report = { unitBytes, totalBytes, units: units.length, distinctHashes: new Set(units.map((unit) => unit.sha256)).size };
      const types = distinct(index.codecs[name]?.forms?.flat(2));
      codecs[name] = types.length > 0 ? { ...report, types } : report;
    }
    const { architecture, modelDigest, layers, experts, topK, hidden, ffn } = index;
    const report = {
      kind: "store" as const,
      dir: store.dir,
      architecture,
      modelDigest,
      layers,
      experts,
      topK,
      hidden,
      ...(ffn === undefined ? {} : { ffn }),
      denseTensors: store.denseNames.length,
      denseTypes: distinct(Object.values(index.denseForms ?? {})),
      codecs,
      ...(options.backend === undefined ? {} : { backend: options.backend }),
    };
    return options.verify ? { ...report, verified: await verifyAll(store, log) } : report;
  } finally {
    await store.close();
  }
}

const distinct = (names: readonly string[] = []): readonly string[] => [...new Set(names)].sort();

export function formatReport(report: InspectReport): string {
  return report.kind === "dense" ? formatDense(report) : formatStore(report);
}

const within = (types: readonly string[] = []): string => (types.length === 0 ? "" : `; in ${types.join(", ")}`);

function formatStore(report: StoreReport): string {
  const lines = [
    `model        ${report.dir}`,
    `architecture ${report.architecture}`,
    `digest       ${report.modelDigest}`,
    `layers       ${report.layers}`,
    report.experts > 0 ? `experts      ${report.experts} a layer, top-${report.topK}` : "experts      none: every layer is dense",
    `dimensions   hidden ${report.hidden}${report.ffn === undefined ? "" : `, ffn ${report.ffn}`}`,
    `dense part   ${report.denseTensors} tensors${within(report.denseTypes)}`,
  ];
  for (const [name, codec] of Object.entries(report.codecs)) {
    lines.push(
      `codec ${name.padEnd(6)} ${(codec.unitBytes / 1e6).toFixed(2)} MB an expert, ${(codec.totalBytes / 1e6).toFixed(0)} MB in all, ${codec.distinctHashes} of ${codec.units} hashes distinct${within(codec.types)}`,
    );
  }
  if (report.backend) lines.push(`backend      ${report.backend} can compute it`);
  if (report.verified)
    lines.push(
      `verified     ${report.verified.units} expert units, ${report.verified.denseTensors} dense tensors and ${report.verified.files} files match their hashes, the tokenizer loads`,
    );
  return lines.join("\n");
}
