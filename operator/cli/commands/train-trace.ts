// `enodia train trace`: follows the pods of a running job for some steps over forwarded ports and writes one file of all ranks.
import type { Duplex } from "node:stream";
import { AppError, ports } from "../../../crds/common.ts";
import type { MoETrainingJob } from "../../../crds/moe-training-job.ts";
import type { WorldMember } from "../../../crds/training-world.ts";
import { chromeTrace } from "../../../runtime/train/trace/chrome.ts";
import { Gathering, groupOf, onOneAxis } from "../../../runtime/train/trace/gathering.ts";
import { stepSpansMax } from "../../../runtime/train/trace/spans.ts";
import { rankTimes } from "../../../runtime/train/trace/summary.ts";
import { stepsIn } from "../../../runtime/train/trace/traced-step.ts";
import { checkOutput, writeOutput } from "../output-file.ts";
import { traceLines } from "../trace-client.ts";
import type { ProgressOutput } from "../train-progress.ts";
import { perfettoOutput, traceText } from "./train-trace-text.ts";

export const stepsDefault = 5;
/** A larger job has only its first ranks traced. */
const ranksTracedMax = 64;
/** The trace ends when no step ends for this long. */
const silenceMsMax = 15 * 60_000;

export interface TraceRequest {
  readonly json: boolean;
  readonly steps: number;
  readonly output: string | undefined;
  /** A connection to a loopback port of a pod. */
  readonly connect: (pod: string, port: number) => Promise<Duplex>;
  readonly progress: ProgressOutput;
  /** Ends the trace with the steps so far. */
  readonly signal: AbortSignal;
}

/** Throws AppError where there is no step to write. */
export async function traceJob(job: MoETrainingJob, request: TraceRequest): Promise<string> {
  const { name } = job.metadata;
  const { steps } = request;
  const file = perfettoOutput(request.output ?? `${name}-trace.json`, "--output");
  await checkOutput(file); // before steps are waited for
  const { epoch, ranks } = worldOf(job);
  const members = ranks.slice(0, ranksTracedMax);
  const gathering = new Gathering({ ranks: members.length, steps, epoch });
  const { why, failure } = await follow(members, gathering, request);
  const { common, made } = gathering;
  if (made === 0) throw failure ?? noStep(name, why);
  const traced = common.map((own, rank) => ({ name: nameOf(members, common, rank), steps: own }));
  const placed = onOneAxis(traced);
  await writeOutput(file, chromeTrace(placed));
  const shown = placed.map((rank) => ({ name: rank.name, times: rankTimes(rank.spans) }));
  const ended = made < steps ? why : undefined;
  if (request.json)
    return JSON.stringify({ file: file.path, epoch, wanted: steps, made, ...(ended !== undefined && { ended }), ranks: shown });
  const left = ranks.length - members.length;
  const notes = [
    ...(ended === undefined ? [] : [`${made} of ${steps} steps: ${ended}`]),
    ...(left === 0 ? [] : [`the first ${members.length} of ${ranks.length} ranks`]),
    ...(common.flat().some(({ spans }) => spans.length === stepSpansMax)
      ? ["steps with too many spans are there from their middle on"]
      : []),
  ];
  const done = `${file.path}: ${stepsText(common)}; open it at https://ui.perfetto.dev`;
  return [done, ...notes, "", traceText(shown)].join("\n");
}

function worldOf({ metadata: { name }, status }: MoETrainingJob): NonNullable<MoETrainingJob["status"]["world"]> {
  const running = status.conditions?.find(({ type }) => type === "Running");
  if (running?.status === "True" && status.world !== undefined) return status.world;
  const why = running === undefined ? "has not begun" : `does not train (${running.reason}: ${running.message})`;
  throw new AppError(`${name} ${why}; a trace is of a job that trains; see: enodia train status ${name}`, { code: "NotReady" });
}

type Steps = Gathering["common"];

/** Includes the world where there are several. */
function nameOf(members: readonly WorldMember[], common: Steps, rank: number): string {
  const several = new Set(common.map(groupOf)).size > 1;
  return `rank ${rank}${several ? ` of world ${groupOf(common[rank] ?? [])}` : ""}, ${members[rank]?.pod}`;
}

function stepsText(common: Steps): string {
  const spans = new Set(common.map((own) => `${own[0]?.step} to ${own.at(-1)?.step}`));
  const ranks = common.length === 1 ? "1 rank" : `${common.length} ranks`;
  return `steps ${[...spans].join(", and ")} of ${ranks}`;
}

const noStep = (name: string, why: string): AppError =>
  new AppError(`nothing is written: ${why} before each rank had ended a step; ask again, or see: enodia train status ${name}`, {
    code: "NoSteps",
  });

/** What ended the trace; at the end of a job it is no failure. */
async function follow(members: readonly WorldMember[], gathering: Gathering, request: TraceRequest) {
  let [why, failure]: [string | undefined, AppError | undefined] = [undefined, undefined];
  const ends = new AbortController();
  const signal = AbortSignal.any([request.signal, ends.signal]);
  const end = (reason: string): void => {
    why ??= reason;
    ends.abort();
  };
  const show = progressOf(request);
  const silence = setTimeout(() => end(`no step ended for ${silenceMsMax / 60_000} min`), silenceMsMax);
  const one = async (member: WorldMember, rank: number): Promise<void> => {
    const connection = await request.connect(member.pod, ports.trace);
    connection.on("error", () => {}); // who reads it hears of it, too
    try {
      if (signal.aborted) return;
      for await (const step of stepsIn(traceLines(connection, member.pod, signal), member)) {
        silence.refresh();
        gathering.add(rank, step);
        show(gathering.made);
        if (gathering.over !== undefined) return end(gathering.over);
      }
      end(`pod ${member.pod} ended`);
    } finally {
      connection.destroy();
    }
  };
  const failed = (caught: unknown, pod: string): void => {
    if (signal.aborted) return;
    failure = caught instanceof AppError ? remedied(caught) : unreadable(pod, caught);
    end(failure.message);
  };
  show(0);
  await Promise.all(members.map((member, rank) => one(member, rank).catch((caught) => failed(caught, member.pod))));
  clearTimeout(silence);
  show();
  return { why: why ?? "it was interrupted", failure };
}

const unreadable = (pod: string, cause: unknown): AppError =>
  new AppError(`pod ${pod} writes its trace in a way that this command does not read; take the command of the pod's release`, {
    code: "BadAnswer",
    cause,
  });

/** `made` undefined: no more steps follow. */
function progressOf({ progress, steps }: TraceRequest): (made?: number) => void {
  let last: number | undefined;
  return (made) => {
    if (made === undefined && progress.isTTY) progress.write("\n");
    if (made === undefined || made === last) return;
    last = made;
    const line = `${made} of ${steps} steps of all ranks; Ctrl-C ends with those`;
    progress.write(progress.isTTY ? `\r\u001b[K${line}` : `${line}\n`);
  };
}

function remedied(error: AppError): AppError {
  if (error.code !== "Forbidden") return error;
  return new AppError(`${error.message}: a pod is reached by the right "create" on pods/portforward, as kubectl port-forward has it`, {
    code: error.code,
    cause: error,
  });
}
