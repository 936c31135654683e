// Engines of a model store with their experts resident, for tests that ask them for text.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { after } from "node:test";
import type { CodecName } from "../../../crds/names.ts";
import {
  createEngine,
  type Engine,
  type EngineOptions,
  type GenerateEvent,
  type GenerateRequest,
  type OnDemandExperts,
} from "../../../runtime/engine/engine.ts";
import { importMoe } from "../../../runtime/modelstore/import-moe.ts";
import type { ModelStore } from "../../../runtime/weights/store.ts";
import { openStore } from "../../../runtime/weights/store-reader.ts";

type Hosts = (layer: number, expert: number) => boolean;

/** `hosts`: the experts that are loaded; unset: all of them. */
export async function loadedEngine(store: ModelStore, options: EngineOptions, hosts: Hosts = () => true): Promise<Engine> {
  const engine = await createEngine(options);
  const { codec } = engine.describe();
  for (const [layer, { experts }] of store.layerShapes.entries())
    for (let expert = 0; expert < experts; expert++)
      if (hosts(layer, expert)) await engine.loadExpert(layer, expert, await store.readUnit(layer, expert, codec));
  return engine;
}

export const goldenCheckpoints = resolve(import.meta.dirname, "../../golden");
export const tinyContext = 96;
/** 8 slots of 2 layers with 2 KV heads of 16. */
export const tinyKvPoolBytes = 8 * 2 * 2 * 2 * tinyContext * 16 * 4;
export const nobodyElse: OnDemandExperts = { run: () => Promise.reject(new Error("nobody else is there")) };

interface Golden {
  /** Below test/golden, or a folder. */
  readonly checkpoint?: string;
  readonly codecs?: readonly CodecName[];
}

/** A store of a checkpoint, which goes when the tests of the caller have ended. */
export async function goldenStore({ checkpoint = "tiny-f32", codecs = ["f32"] }: Golden = {}) {
  const root = mkdtempSync(join(tmpdir(), "enodia-store-"));
  after(() => rmSync(root, { recursive: true, force: true }));
  const storeDir = join(root, "store");
  await importMoe({ from: resolve(goldenCheckpoints, checkpoint), out: storeDir, codecs: [...codecs], overwrite: false }, () => {});
  return { root, storeDir };
}

/** Such a store, and engines of it. */
export async function engineWorld({ checkpoint = "tiny-f32", codecs = ["f32"], ...base }: Golden & Partial<EngineOptions> = {}) {
  const { root, storeDir } = await goldenStore({ checkpoint, codecs });
  const store = await openStore(storeDir);
  const engines: Engine[] = [];
  after(async () => {
    for (const engine of engines) await engine.close();
    await store.close();
  });
  const common = {
    storeDir,
    backend: "cpu",
    codec: "f32",
    kvPoolBytes: tinyKvPoolBytes,
    maxContext: tinyContext,
    onDemand: nobodyElse,
  } as const;
  async function start(options: Partial<EngineOptions> = {}, hosts?: Hosts): Promise<Engine> {
    const engine = await loadedEngine(store, { ...common, ...base, ...options }, hosts);
    engines.push(engine);
    return engine;
  }
  return { root, storeDir, store, start };
}

export const greedy = { temperature: 0, topP: 1, topK: 0, seed: 1n };

type Asked = Partial<Omit<GenerateRequest, "prompt" | "replay">> & { replay?: readonly number[]; prompt: readonly number[] };

export async function collect(engine: Engine, request: Asked): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  for await (const event of engine.generate({ maxTokens: 12, sampling: greedy, eos: [], ...request })) events.push(event);
  return events;
}

export const tokensOf = (events: readonly GenerateEvent[]): number[] =>
  events.flatMap((event) => (event.type === "token" ? [event.id] : []));

export const textOf = async (engine: Engine, request: Asked): Promise<number[]> => tokensOf(await collect(engine, request));

/** Tokens of a vocabulary of 320. */
export const promptOf = (seed: number, length: number): number[] =>
  Array.from({ length }, (_, i) => ((seed + 1) * 7919 + i * i * 31 + i * 17) % 320);
