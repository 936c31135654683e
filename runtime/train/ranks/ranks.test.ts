// Training over ranks: whatever their number, the planner, the dispatch and whether copies are dropped, a run ends with the same bits; and
// bytes that ranks send and hold are those of the laws.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { dispatchNames, rematerializeNames, trainingPlannerNames } from "../../../crds/names.ts";
import { gatherBytes } from "../../../test/kit/planner/collective-bytes.ts";
import { World, type WorldOptions } from "../../../test/kit/training/local-ranks.ts";
import { tinyModel } from "../../../test/kit/training/training.ts";
import { testLearning } from "../../../test/kit/training/training-ranks.ts";
import { WireRanks } from "../../../test/kit/training/wire-ranks.ts";
import { trainingPeers } from "../../../test/peers/index.ts";
import { gaussian, randomIds } from "../../kernels/random.ts";
import type { ModelProgram } from "../../kernels/segment.ts";
import { programOf } from "../../models/index.ts";
import type { Hub } from "../../net/collectives/transport.ts";
import { expertReplicaBytes } from "../../placement/training/rank-bytes.ts";
import { layoutOf } from "../model/layout.ts";
import type { Fssdp } from "./step-plan.ts";

const config = JSON.parse(readFileSync(join(tinyModel.dir, "config.json"), "utf8")) as Record<string, unknown>;
const steps = 3;

const fssdp: Omit<Fssdp, "microBatchesAtOnce"> = {
  planner: "auto",
  dispatch: "Exact",
  rematerialize: "Never",
  memorySlots: 2,
  overlapDegree: 3,
  window: 5,
  reshardSteps: 2,
  seconds: { row: 1, expertReplica: 1 },
};

interface Changes {
  readonly fssdp?: Partial<Fssdp>;
  readonly config?: Readonly<Record<string, unknown>>;
  /** Relative speed of each rank. */
  readonly speed?: readonly number[];
  readonly microBatches?: number;
  readonly sequenceLength?: number;
  /** Bytes of optimizer state in memory, of each rank. */
  readonly stateBytes?: number;
  readonly shadow?: boolean;
  /** Deviation of the first parameters. */
  readonly deviation?: number;
  /** Of each rank. */
  readonly threads?: number;
}

/** Eight sequences of a step, cut into micro-batches: the same tokens for every run. */
function batchOf(step: number, vocab: number, { microBatches, sequenceLength }: Pick<WorldOptions, "microBatches" | "sequenceLength">) {
  const rows = (8 * sequenceLength) / microBatches;
  const [inputs, targets] = [0, 50].map((seed) => randomIds(100 * step + seed, 8 * sequenceLength, vocab).data as Int32Array);
  return Array.from({ length: microBatches }, (_, microBatch) => ({
    inputs: inputs!.slice(microBatch * rows, (microBatch + 1) * rows),
    targets: targets!.slice(microBatch * rows, (microBatch + 1) * rows),
  }));
}

function worldOf(program: ModelProgram, ranks: number, changes: Changes) {
  const { fssdp: changed, speed, microBatches = 4, sequenceLength = 8, deviation = 0.1 } = changes;
  const layout = layoutOf(program, (layer, expert) => ({ w1: `${layer} ${expert}` }));
  const options: WorldOptions = {
    program,
    layout,
    facts: { node: Array.from({ length: ranks }, (_, rank) => rank), speed: speed ?? new Array<number>(ranks).fill(1) },
    ...testLearning,
    fssdp: { ...fssdp, microBatchesAtOnce: microBatches, ...changed },
    microBatches,
    sequences: 8,
    sequenceLength,
    optimizerMemory: changes.stateBytes === undefined ? undefined : { bytes: changes.stateBytes, folder: tmpdir() },
    shadow: changes.shadow,
    threads: changes.threads ?? 1,
  };
  return { options, parameters: gaussian(3, layout.floats, deviation) };
}

async function run(ranks: number, changes: Changes = {}, hub?: Hub) {
  const program = programOf({ ...config, ...changes.config });
  const { options, parameters } = worldOf(program, ranks, changes);
  const { layout } = options;
  const world = await World.open(options, parameters, hub);
  try {
    const reports = [];
    for (let step = 1; step <= steps; step++) reports.push(await world.step(step, batchOf(step, program.vocab, options)));
    const digest = createHash("sha256").update(new Uint8Array(world.parameters().buffer)).digest("hex");
    const received = world.ranks.map((_, rank) => world.hub.takeTraffic(rank, "copies").received);
    const shadowBytes = world.ranks.reduce((sum, _, rank) => sum + world.hub.takeTraffic(rank, "shadow sums").received, 0);
    const { floats } = layout;
    const expert = layout.parts.flatMap(({ units }) => units.slice(1))[0]!;
    return {
      digest,
      reports,
      received,
      shadowBytes,
      floats,
      held: world.ranks.map((rank) => rank.takeReplicaBytesMost()),
      expertFloats: expert.to - expert.from,
    };
  } finally {
    await world.close();
  }
}

const alone = await run(1, { fssdp: { planner: "ep" } });

/** Every combination with ENODIA_LONG=1; otherwise each planner on each number of ranks, with the other settings in turn. */
const all = [1, 2, 3, 4].flatMap((ranks) =>
  [...trainingPlannerNames, ...Object.values(trainingPeers)].flatMap((planner, p) =>
    dispatchNames.flatMap((dispatch, d) =>
      rematerializeNames.flatMap((rematerialize, m) => {
        const turn = (ranks + p + Math.floor(p / 4)) % 4 === 2 * d + m;
        return process.env.ENODIA_LONG === "1" || turn ? [{ ranks, planner, dispatch, rematerialize }] : [];
      }),
    ),
  ),
);

const nameOf = (planner: Fssdp["planner"]): string =>
  typeof planner === "string" ? planner : (Object.entries(trainingPeers).find(([, peer]) => peer === planner)?.[0] ?? "");

for (const { ranks, ...changed } of all)
  test(`${ranks} ranks, ${nameOf(changed.planner)}, ${changed.dispatch}, copies dropped ${changed.rematerialize}: the bits of one rank`, async () => {
    assert.equal((await run(ranks, { fssdp: changed })).digest, alone.digest);
  });

test("3 ranks over the wire have the bits of loopback, and their bytes", async () => {
  const given = { fssdp: { planner: "hecate" } } as const;
  const wire = await WireRanks.open(3);
  try {
    const [there, here] = [await run(3, given, wire), await run(3, given)];
    assert.equal(there.digest, here.digest);
    assert.equal(there.digest, alone.digest);
    assert.deepEqual(there.received, here.received);
    assert.ok(there.received.every((bytes) => bytes > 0));
  } finally {
    await wire.close();
  }
});

/** An expert has 256 rows of a micro-batch: so many that products added in place have other bits than products alone. */
test("of long sequences too, micro-batches that a rank adds at once have the bits of those that wait for the sum of others", async () => {
  const long = { sequenceLength: 256, fssdp: { planner: "hecate" } } as const;
  const one = await run(1, { ...long, fssdp: { planner: "ep", microBatchesAtOnce: 1 } });
  assert.equal((await run(3, long)).digest, one.digest);
});

/** Sizes in which a row's bits do depend on those beside it, or a sum's on where it is made. */
const unsteady: Readonly<Record<string, Changes>> = {
  "two threads, each with few columns": {
    threads: 2,
    config: { hidden_size: 96, intermediate_size: 300, head_dim: 8 },
    sequenceLength: 32,
  },
  "rows that begin between vectors": { config: { intermediate_size: 301 } },
  "experts of one column": { config: { intermediate_size: 1 }, sequenceLength: 32 },
};

for (const [name, changes] of Object.entries(unsteady))
  test(`${name}: the bits of one rank`, async () => {
    const one = await run(1, { ...changes, fssdp: { planner: "ep" } });
    assert.equal((await run(3, { ...changes, fssdp: { planner: "hecate" } })).digest, one.digest);
  });

const accumulationSteps: readonly (readonly [number, Changes])[] = [
  [1, { fssdp: { microBatchesAtOnce: 1 } }],
  [2, { fssdp: { microBatchesAtOnce: 2 } }],
  [2, { fssdp: { microBatchesAtOnce: 2, planner: "hecate", rematerialize: "AfterForward" } }],
  [2, { fssdp: { microBatchesAtOnce: 2, planner: "late" } }],
];

for (const [ranks, changes] of accumulationSteps)
  test(`${ranks} ranks in accumulation steps of micro-batches, ${JSON.stringify(changes.fssdp)}: the bits of one rank`, async () => {
    assert.equal((await run(ranks, changes)).digest, alone.digest);
  });

test("3 ranks of other speeds in accumulation steps, whose micro-batches do not lie together, have the bits of one rank", async () => {
  const one = await run(1, { microBatches: 8 });
  assert.equal(
    (await run(3, { microBatches: 8, speed: [1, 2, 1], fssdp: { microBatchesAtOnce: 4, planner: "hecate" } })).digest,
    one.digest,
  );
});

test("ranks of other speeds, with other micro-batches, have the same bits; gradients summed over whole ranks first do not", async () => {
  assert.equal((await run(2, { speed: [3, 1] })).digest, alone.digest);
  assert.equal((await run(3, { speed: [1, 1, 5] })).digest, alone.digest);
  assert.notEqual((await run(2, { microBatches: 2 })).digest, alone.digest);
});

test("the runs above differ in what moves: copies, late copies, primaries with their moments, nothing", async () => {
  const last = async (planner: Fssdp["planner"], ranks = 4) =>
    (await run(ranks, { fssdp: { planner } })).reports.map(({ primaries, hosts }) => ({ primaries, hosts }));
  const copies = (hosts: readonly (readonly (readonly number[])[])[]): number => hosts.flat().filter((row) => row.length > 1).length;
  for (const planner of ["hecate", "late"] as const) assert.ok(copies((await last(planner)).at(-1)!.hosts) > 0, planner);
  const moved = await last(trainingPeers.smartmoe, 2);
  assert.notDeepEqual(moved[2]!.primaries, moved[0]!.primaries);
  const still = await last("ep");
  assert.deepEqual(still[2], still[0]);
  assert.equal(copies(still[2]!.hosts), 0);
});

test("optimizer state on disk has the same bits, where experts change their primaries too", async () => {
  for (const planner of ["ep", trainingPeers.smartmoe] as const)
    assert.equal((await run(2, { fssdp: { planner }, stateBytes: 50_000 })).digest, alone.digest);
  const shadowed = await run(2, { fssdp: { planner: trainingPeers.smartmoe }, stateBytes: 50_000, shadow: true });
  assert.equal(shadowed.digest, alone.digest, "with what is shadowed on disk too");
});

test("ranks that shadow one another have the same bits, with experts that move, for four bytes a parameter and step", async () => {
  for (const ranks of [2, 3]) {
    const shadowed = await run(ranks, {
      shadow: true,
      fssdp: { planner: trainingPeers.smartmoe, microBatchesAtOnce: ranks === 2 ? 2 : 4 },
    });
    assert.equal(shadowed.digest, alone.digest);
    assert.equal(shadowed.shadowBytes, 4 * steps * shadowed.floats);
  }
  assert.equal((await run(3)).shadowBytes, 0);
});

test("a head that has the embedding's tensors, and a layer without experts, are summed alike", async () => {
  const tie = { config: { tie_word_embeddings: true } };
  const one = await run(1, tie);
  assert.notEqual(one.digest, alone.digest);
  assert.equal((await run(3, tie)).digest, one.digest);
  const other = JSON.parse(readFileSync(join(tinyModel.dir, "../families/deepseek-v2/config.json"), "utf8")) as Record<string, unknown>;
  const mixed = { config: other };
  assert.equal((await run(3, mixed)).digest, (await run(1, mixed)).digest);
});

test("copies are received in the bytes of the law and held as the law of memory says; dropped ones take less", async () => {
  const given = { config: { num_hidden_layers: 12 }, fssdp: { planner: "hecate", memorySlots: 1 } } as const;
  const kept = await run(3, given);
  const again = await run(3, { ...given, fssdp: { ...given.fssdp, rematerialize: "AfterForward" } });
  assert.equal(again.digest, kept.digest);
  const chunk = 4 * kept.expertFloats;
  const law = kept.reports.reduce((sum, { hosts }) => sum + hosts.reduce((all, rows) => all + gatherBytes(rows, chunk), 0), 0);
  assert.ok(law > 0);
  assert.equal(
    kept.received.reduce((a, b) => a + b, 0),
    law,
  );
  assert.deepEqual(again.received, kept.received, "forward's; those of backward have a name of their own");
  for (const [rank, bytes] of kept.held.entries()) {
    const most = (rematerialize: boolean): number =>
      Math.max(
        ...kept.reports.map(({ hosts, primaries }) => {
          const copies = hosts.map((rows, layer) => rows.filter((row, e) => row.includes(rank) && primaries[layer]![e] !== rank).length);
          return expertReplicaBytes({ expertReplicas: copies, expert: kept.expertFloats, rematerialize });
        }),
      );
    assert.equal(bytes, most(false));
    assert.equal(again.held[rank], most(true));
    assert.ok(again.held[rank]! <= 0.2 * bytes, `${again.held[rank]} of ${bytes}`);
  }
});

test("a loss that is no number ends the step on every rank", async () => {
  await assert.rejects(run(2, { deviation: Number.NaN }), {
    code: "NonFiniteLoss",
    message: /^step 1: the loss of micro-batch 0 is not finite/,
  });
});
