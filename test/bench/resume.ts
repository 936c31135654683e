// The first token of a text whose keys and values left the attention cache: computed again, from host memory, and from the disk, in turns.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { movedKv } from "../../crds/common.ts";
import { kvBlockTokens } from "../../runtime/compute/kv-size.ts";
import type { Engine, EngineInfo } from "../../runtime/engine/engine.ts";
import { silentLog } from "../../runtime/observe/log.ts";
import { createMetrics } from "../../runtime/observe/runtime-metrics.ts";
import { KvDisk } from "../../runtime/worker/kv-disk.ts";
import { until } from "../kit/wait.ts";
import { count, generate, openEngine, prompt, readArgs } from "./serve.ts";
import { median, round } from "./speed-rows.ts";

const maxContext = 2_048;
/** Host memory holds two texts: two later ones leave the disk alone with it. */
const textsInMemory = 2;
const diskBytes = 8 * 2 ** 30;
const sources = ["computed", "memory", "disk"] as const;

export async function resumeBench(args: readonly string[]): Promise<readonly object[]> {
  const asked = await readArgs(args, ["tokens"]);
  const tokens = count("tokens", asked.own.tokens ?? "1500");
  const threads = Math.max(...asked.threads);
  const probe = await openEngine(asked, { threads, maxContext });
  const info = probe?.engine.describe() as EngineInfo;
  await probe?.engine.close();
  const blockBytes = kvBlockTokens(maxContext) * (info.kvPositionBytes ?? 0);
  const kvOffloadBytes = textsInMemory * Math.ceil(tokens / kvBlockTokens(maxContext)) * blockBytes;
  const kvPoolBytes = Math.ceil(info.kvBytes / info.kvBlocks) * Math.ceil(maxContext / kvBlockTokens(maxContext));
  const opened = await openEngine(asked, { threads, maxContext, kv: { kvPoolBytes, kvOffloadBytes } });
  const { engine } = opened as { engine: Engine };
  const dir = mkdtempSync(join(tmpdir(), "enodia-resume-"));
  const metrics = createMetrics({ process: "worker", version: "bench", constants: {} });
  const disk = await KvDisk.open({ dir, bytes: diskBytes, info, kv: engine.kv as NonNullable<Engine["kv"]>, metrics, log: silentLog });
  const times: Record<(typeof sources)[number], number[]> = { computed: [], memory: [], disk: [] };
  let held = 0;
  const first = async (ids: readonly number[], from: (typeof sources)[number]): Promise<number> => {
    const start = performance.now();
    if (from === "disk") await disk?.bring({ tokens: Uint32Array.from(ids), cacheSalt: "" }, new AbortController().signal);
    const { at } = await generate(engine, ids, 1);
    if (from === "computed") held += Math.ceil((ids.length - (ids.length % movedKv.step)) / movedKv.tokens);
    await until("blocks are on the disk", () => (disk?.blocks ?? 0) >= held);
    return (at[0] as number) - start;
  };
  try {
    for (let run = 0; run < asked.runs; run++) {
      const [text, ...others] = Array.from({ length: 3 }, () => prompt(tokens, info.vocab)) as [number[], number[], number[]];
      times.computed.push(await first(text, "computed"));
      await first(others[0], "computed");
      times.memory.push(await first(text, "memory"));
      for (const other of [others[1], prompt(tokens, info.vocab)]) await first(other, "computed");
      times.disk.push(await first(text, "disk"));
    }
  } finally {
    await disk?.close();
    await engine.close();
    await metrics.close();
    rmSync(dir, { recursive: true, force: true });
  }
  const computed = median(times.computed);
  const megabytes = round((tokens * (info.kvPositionBytes ?? 0)) / 1e6, 1);
  return sources.map((source) => {
    const ms = median(times[source]);
    return {
      source,
      tokens,
      megabytes,
      firstTokenMs: round(ms, 1),
      part: round(ms / computed, 3),
      ok: source === "computed" || ms < computed,
    };
  });
}
