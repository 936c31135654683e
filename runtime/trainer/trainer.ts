// The training pod's process: runs runtime/train by the job's spec, says over HTTP how far it is, and leaves the kubelet a message of its
// end, by which the operator decides. Told to stop, it ends with a checkpoint, from which the next pod goes on bit for bit.
import { writeFile } from "node:fs/promises";
import { AppError } from "../../crds/common.ts";
import type { TrainerSettings } from "../../crds/training-process.ts";
import { reportPath, type TrainingEnd, trainingEndText } from "../../crds/training-report.ts";
import { listenBounded } from "../observe/bounded-server.ts";
import { createLog, type Log } from "../observe/log.ts";
import { type RunEnd, type TrainPorts, train } from "../train/run.ts";
import { jobWords } from "./job-words.ts";
import { Progress } from "./progress.ts";
import { trainSettings } from "./settings.ts";

export interface Trainer {
  readonly port: number;
  /** Resolves once the end is written; rejects with what a run failed of. */
  readonly ended: Promise<void>;
  /** Asks for a checkpoint, and waits for it. */
  close(): Promise<void>;
}

export interface TrainerOptions {
  /** The run; tests give another. */
  readonly run?: typeof train;
  /** Address to listen on; all when not given. */
  readonly host?: string;
}

export async function startTrainer(settings: TrainerSettings, { run = train, host }: TrainerOptions = {}): Promise<Trainer> {
  const { namespace, job, spec, logLevel, probePort } = settings;
  const log = createLog({ level: logLevel, name: "trainer", fields: { namespace, job } });
  const progress = new Progress(spec.steps);
  const server = await listenBounded({
    name: "probe",
    port: probePort,
    ...(host !== undefined && { host }),
    handle: (request, response) => {
      const found = request.url === reportPath && request.method === "GET";
      const body = found ? JSON.stringify(progress.report()) : `not found; here is ${reportPath}\n`;
      response.writeHead(found ? 200 : 404, { "content-type": found ? "application/json" : "text/plain; charset=utf-8" });
      response.end(body);
    },
  });
  let stopped = false;
  const ports = portsOf({ progress, log, stopped: () => stopped });
  const ended = Promise.resolve()
    .then(() => run(trainSettings(spec), ports))
    .then(
      (end) => writeEnd(settings.endFile, endOf(end, progress), log),
      async (caught) => {
        const { code, message, retry } = AppError.from(caught, "training");
        const report = progress.report();
        await writeEnd(settings.endFile, { outcome: "Failed", code, message: jobWords(message), retry: retry !== "never", report }, log);
        throw caught;
      },
    )
    .finally(() => server.close());
  return {
    port: server.port,
    ended,
    close: async () => {
      stopped = true;
      await ended;
    },
  };
}

function endOf(end: RunEnd, progress: Progress): TrainingEnd {
  return { outcome: end.store === undefined ? "Stopped" : "Complete", report: { ...progress.report(), step: end.step } };
}

/** Where it cannot be written, the operator takes the end for a failure, and another pod goes on. */
async function writeEnd(path: string, end: TrainingEnd, log: Log): Promise<void> {
  log.info({ outcome: end.outcome, code: end.code, step: end.report?.step }, end.message ?? "the run has ended");
  await writeFile(path, trainingEndText(end));
}

interface Shown {
  readonly progress: Progress;
  readonly log: Log;
  readonly stopped: () => boolean;
}

function portsOf({ progress, log, stopped }: Shown): TrainPorts {
  return {
    now: () => performance.now(),
    stopped,
    onStart(start) {
      progress.start(start.step);
      log.info({ ...start }, "training");
    },
    onStep(report) {
      progress.add(report);
      log.debug({ ...report }, "step");
    },
    onValidation({ step, loss }) {
      progress.validated(loss);
      log.info({ step, loss }, "validation");
    },
  };
}
