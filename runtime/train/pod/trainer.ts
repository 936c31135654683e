// The training pod's process: it trains in the world that the operator gives it, reports progress, and leaves the kubelet a message of
// its end for the operator.
import { writeFile } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import type { TrainerSettings } from "../../../crds/training-process.ts";
import { type TrainingEnd, trainingEndText } from "../../../crds/training-report.ts";
import { trainingScope } from "../../../crds/training-world.ts";
import { folderTls } from "../../net/tls.ts";
import type { BoundedServer } from "../../observe/bounded-server.ts";
import { createLog, type Log } from "../../observe/log.ts";
import { type LeastRanks, leastRanks } from "../loop/needs.ts";
import { type RunEnd, train } from "../loop/run.ts";
import type { TrainPorts } from "../loop/train-ports.ts";
import { Recorder } from "../trace/recorder.ts";
import { movedWithin } from "../trace/spans.ts";
import { jobMessage } from "./job-message.ts";
import { trainSettings } from "./job-settings.ts";
import { Membership } from "./membership.ts";
import { Worlds } from "./pod-worlds.ts";
import { Progress } from "./run-progress.ts";
import { StepTimeout } from "./step-timeout.ts";
import { listenForTraces, StepTraces, type TraceServerOptions } from "./trace-server.ts";
import { listenForWorlds } from "./world-server.ts";

export interface Trainer {
  readonly port: number;
  /** The port for step traces; undefined where it could not be opened. */
  readonly tracePort: number | undefined;
  /** Resolves once the end is written; rejects with the run's failure. */
  readonly ended: Promise<void>;
  close(): Promise<void>;
}

export interface TrainerOptions {
  readonly run?: typeof train;
  /** The listen address; by default all addresses, and loopback for traces. */
  readonly host?: string;
  readonly leaveMs?: number;
}

export async function startTrainer(settings: TrainerSettings, options: TrainerOptions = {}): Promise<Trainer> {
  const { run = train, host = "0.0.0.0", leaveMs } = options;
  const traceHost = options.host ?? "127.0.0.1";
  const { namespace, job, jobUid, podUid, rank, spec, logLevel, worldPort, tlsDir } = settings;
  const log = createLog({ level: logLevel, name: "trainer", fields: { namespace, job, rank } });
  const progress = new Progress(spec.steps);
  const membership = new Membership({ job: jobUid, pod: podUid, rank });
  const tls = folderTls(tlsDir);
  let least: LeastRanks = unknown;
  const server = await listenForWorlds({
    namespace,
    scope: trainingScope(job),
    tls,
    host,
    port: worldPort,
    log,
    take(order) {
      membership.take(order);
      const report = progress.report();
      return membership.report(report, least(report.step ?? 0));
    },
  });
  void reckon(settings, log).then((found) => {
    least = found;
  });
  const recorder = new Recorder(now);
  const timeout = new StepTimeout(spec.failurePolicy.stepTimeout, recorder, now);
  const traces = new StepTraces();
  const attributes = { "k8s.namespace.name": namespace, "k8s.pod.uid": podUid, "enodia.training_job": job, "enodia.rank": rank };
  const traceServer = await tracesAt({ host: traceHost, port: settings.tracePort, job: jobUid, attributes, traces, originMs }, log);
  const ports = portsOf({ progress, log, recorder, timeout, traces });
  const worlds = new Worlds({ settings, membership, tls, host, run, ports, timeout, traces, log, leaveMs });
  const ended = worlds
    .all()
    .then(
      (end) => writeEnd(settings.endFile, endOf(end, progress), log),
      async (caught) => {
        const { code, message, retry } = AppError.from(caught, "training");
        const report = progress.report();
        await writeEnd(settings.endFile, { outcome: "Failed", code, message: jobMessage(message), retry: retry !== "never", report }, log);
        throw caught;
      },
    )
    .finally(async () => {
      tls.close();
      await server.close();
      await traceServer?.close();
    });
  return {
    port: server.port,
    tracePort: traceServer?.port,
    ended,
    close: async () => {
      worlds.close();
      await ended;
    },
  };
}

const unknown = (): undefined => undefined;

/** The least ranks of all worlds that meet. The run itself reports errors of the spec. */
async function reckon({ spec }: TrainerSettings, log: Log): Promise<LeastRanks> {
  try {
    const least = await leastRanks(trainSettings(spec));
    return (step) => {
      const each = least(step);
      return each === undefined ? undefined : each * (1 + spec.local.data.length);
    };
  } catch (caught) {
    log.debug({ why: AppError.from(caught).message }, "the least ranks are not known");
    return unknown;
  }
}

function endOf(end: RunEnd | undefined, progress: Progress): TrainingEnd {
  if (end === undefined) return { outcome: "Stopped", report: progress.report() };
  return { outcome: "Complete", report: { ...progress.report(), step: end.step } };
}

/** The operator counts a failure if it finds no message, and another pod continues. */
async function writeEnd(path: string, end: TrainingEnd, log: Log): Promise<void> {
  log.info({ outcome: end.outcome, code: end.code, step: end.report?.step }, end.message ?? "the run has ended");
  await writeFile(path, trainingEndText(end));
}

const now = (): number => performance.now();
/** Computed on demand, since the node's clock may be set while a pod runs. */
const originMs = (): number => Date.now() - performance.now();

async function tracesAt(options: TraceServerOptions, log: Log): Promise<BoundedServer | undefined> {
  try {
    return await listenForTraces(options);
  } catch (caught) {
    log.warn({ why: AppError.from(caught).message }, "no traces can be asked for");
    return undefined;
  }
}

interface Shown {
  readonly progress: Progress;
  readonly log: Log;
  readonly recorder: Recorder;
  readonly timeout: StepTimeout;
  readonly traces: StepTraces;
}

function portsOf({ progress, log, recorder, timeout, traces }: Shown): Omit<TrainPorts, "stopped" | "next"> {
  return {
    now,
    recorder: timeout,
    onStart(start) {
      const repeats = progress.stepsAfter(start.step);
      progress.start(start.step);
      recorder.take(); // Spans of the begin and of an abandoned step belong to no step.
      log.info({ ...start, repeats }, "training");
    },
    onStep(report) {
      progress.add(report);
      log.debug({ ...report }, "step");
    },
    onRanks({ step, imbalanceAtPrimaries, imbalance, copied, expertShares, copies }) {
      progress.copies(copies);
      const spans = recorder.take();
      traces.ended(step, spans);
      const { exposedMs, bytes } = movedWithin(spans);
      progress.spread({
        imbalanceAtPrimaries,
        imbalance,
        copied,
        exposedSeconds: exposedMs / 1000,
        bytes,
        expertShares: [...expertShares],
      });
    },
    onShort(step) {
      progress.start(step);
      log.info({ step }, "experts spawn, and wait for more ranks");
    },
    onValidation({ step, loss }) {
      progress.validated(loss);
      log.info({ step, loss }, "validation");
    },
  };
}
