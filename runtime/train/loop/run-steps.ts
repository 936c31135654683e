// The steps of a run: computing, saving, validation, and meetings with other worlds.

import { readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import type { TrainingBackend, WeightViews } from "../../compute/training.ts";
import type { TrainedModel } from "../model/trained-model.ts";
import { writeCheckpoint } from "../model/training-checkpoint.ts";
import { localSteps } from "../recipes/index.ts";
import { worldsMeet } from "../trace/spans.ts";
import { unmetFolder } from "../worlds/going-on.ts";
import type { Outer } from "../worlds/outer.ts";
import { sparedBefore } from "../worlds/rounds.ts";
import { type Machine, runStep, validationLoss } from "./run-step.ts";
import type { Stage } from "./stages.ts";
import type { TrainPorts } from "./train-ports.ts";
import type { identityOf } from "./train-settings.ts";

export interface Opened extends Machine {
  readonly stage: Stage;
  readonly model: TrainedModel;
  readonly frozen: WeightViews;
  readonly backend: TrainingBackend;
  readonly identity: ReturnType<typeof identityOf>;
  readonly checkpoints: string;
  readonly weights: string;
  readonly step: number;
  readonly outer: Outer | undefined;
  /** The worlds must meet at the end of that step first. */
  readonly unmet: boolean;
}

export interface Run extends Opened {
  mayWrite(): Promise<void>;
  /** True where the run is to stop and this rank can keep its state only in a checkpoint. */
  leavesCheckpoint(): boolean;
}

/** Does nothing if the run has the checkpoint. The one that a stage was born of belongs to the stage before. */
async function save(run: Run, step: number): Promise<void> {
  const { keep, everySteps } = run.settings.checkpoint;
  if (run.stage.number > 0 && step === run.stage.from) return;
  const spared = run.outer && sparedBefore(step, everySteps);
  await writeCheckpoint(run.checkpoints, { ...stateOf(run), step, keep, spared });
}

function stateOf({ identity, rank, model, mayWrite }: Run) {
  return { stored: rank.state.stored, identity, layout: model.layout, state: rank.state, mayWrite };
}

async function met(run: Run, step: number, recorder: TrainPorts["recorder"]): Promise<boolean> {
  const { outer, rank, settings } = run;
  if (outer === undefined) return true;
  const meet = (): Promise<boolean> => outer.meet(step, rank.share);
  const meeting = { kind: "meeting", name: worldsMeet, layer: -1 } as const;
  if (step % (localSteps(settings.recipes) ?? 1) !== 0) await outer.made(step);
  else if (!(await (recorder?.around(meeting, meet) ?? meet()))) {
    await writeCheckpoint(unmetFolder(settings), { ...stateOf(run), step, keep: 1 });
    return false;
  }
  return true;
}

/** Validates if the step asks for it; an interrupted validation is repeated after the restart. */
async function validate(run: Run, step: number, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  if (!marks(run, step) || step === bornAt(run)) return undefined;
  run.model.at(step);
  const loss = await validationLoss(run, step, ports.stopped);
  if (loss === undefined) return undefined;
  await metrics?.add({ step, validationLoss: loss, perplexity: Math.exp(loss) });
  ports.onValidation({ step, loss });
  return loss;
}

/** The steps that are saved and validated. A stage's last step is done with the next stage's model. */
const marks = ({ settings: { checkpoint }, stage: { from, to } }: Run, step: number): boolean =>
  step > 0 && (step % checkpoint.everySteps === 0 || step === from || step === to);

const bornAt = ({ settings, stage: { to } }: Run): number | undefined => (to < settings.schedule.steps ? to : undefined);

async function validationSoFar(run: Run, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  const known = (await metrics?.cutAfter(run.step)) ?? Number.NaN;
  const [reported = Number.NaN] = await run.rank.state.fromFirst(run.step, "validation", Float64Array.of(known));
  if (run.unmet) return undefined;
  return Number.isNaN(reported) ? validate(run, run.step, metrics, ports) : reported;
}

/** Among worlds that meet, none continues or drops a checkpoint before all have this one. */
async function saveMet(run: Run, step: number, metrics: Metrics | undefined, ports: TrainPorts): Promise<number | undefined> {
  if (!marks(run, step)) return undefined;
  await save(run, step);
  await run.outer?.saved(step);
  return validate(run, step, metrics, ports);
}

export interface Made {
  readonly step: number;
  readonly all: boolean;
  readonly loss?: number;
}

export async function makeSteps(run: Run, metrics: Metrics | undefined, ports: TrainPorts): Promise<Made> {
  const { outer, stage, unmet } = run;
  if (marks(run, run.step) && !unmet) await save(run, run.step); // A step made at the begin of this world has no checkpoint yet.
  let validation = await validationSoFar(run, metrics, ports);
  if (unmet) {
    if (!(await met(run, run.step, ports.recorder))) return { step: run.step, all: false };
    validation = await saveMet(run, run.step, metrics, ports);
  }
  for (let step = run.step + 1; step <= stage.to; step++) {
    const begin = ports.now();
    run.model.at(step);
    const made = (): ReturnType<typeof runStep> => runStep(run, step, ports.stopped);
    const done = await (ports.recorder?.around({ kind: "step", name: `step ${step}`, layer: -1 }, made) ?? made());
    if (done === undefined) {
      const wishes = await run.rank.state.gather(step - 1, "stop", Int32Array.of(Number(run.leavesCheckpoint())), () => 1);
      if (wishes.some(([wish]) => wish === 1)) await save(run, step - 1);
      await outer?.stops(step);
      return { step: step - 1, all: false };
    }
    const { report, ranks } = done;
    const seconds = (ports.now() - begin) / 1000;
    await metrics?.add({ ...report, seconds });
    ports.onStep({ ...report, seconds });
    ports.onRanks?.(ranks);
    if (!(await met(run, step, ports.recorder))) return { step, all: false };
    validation = (await saveMet(run, step, metrics, ports)) ?? validation;
  }
  return { step: stage.to, all: true, ...(validation !== undefined && { loss: validation }) };
}

const metricsSchema = z.object({ step: z.number(), validationLoss: z.number().optional() });

/** An unreadable line, as after a kill, counts as a step beyond all others. */
function parsed(line: string): z.infer<typeof metricsSchema> {
  try {
    return metricsSchema.parse(JSON.parse(line));
  } catch {
    return { step: Number.POSITIVE_INFINITY };
  }
}

/** A run's metrics file: one JSON line per step; steps past the checkpoint are repeated. */
export class Metrics {
  readonly #path: string;
  readonly #mayWrite: () => Promise<void>;

  /** `mayWrite` throws while another process writes the output. */
  constructor(out: string, mayWrite: () => Promise<void>) {
    this.#path = join(out, "metrics.jsonl");
    this.#mayWrite = mayWrite;
  }

  /** Returns the known validation loss of the step. */
  async cutAfter(step: number): Promise<number | undefined> {
    const text = await readFile(this.#path, "utf8").catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") return "";
      throw cause;
    });
    const kept = text.split("\n").filter((line) => parsed(line).step <= step);
    await this.#mayWrite();
    const unfinished = `${this.#path}.tmp`;
    await writeFile(unfinished, kept.map((line) => `${line}\n`).join(""), { flush: true });
    await rename(unfinished, this.#path);
    return kept.map(parsed).findLast((line) => line.step === step && line.validationLoss !== undefined)?.validationLoss;
  }

  async add(line: object): Promise<void> {
    await this.#mayWrite();
    await writeFile(this.#path, `${JSON.stringify(line)}\n`, { flag: "a" });
  }
}
