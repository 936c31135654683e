// A training pod as a process of its own, which can be killed and stopped: its settings and folders come in its first argument, and each
// line that it writes says its port, the step that a world goes on from, or a step that was made.
import { writeSync } from "node:fs";
import { paths } from "../../../crds/common.ts";
import type { TrainerSettings } from "../../../crds/training-process.ts";
import { train } from "../../../runtime/train/loop/run.ts";
import { startTrainer } from "../../../runtime/train/pod/trainer.ts";

export interface PodProcess {
  readonly settings: TrainerSettings;
  readonly host: string;
  /** Other folders than the spec's. */
  readonly folders?: { readonly model: string; readonly data: string; readonly out: string } | undefined;
  /** Where the spec's claims are. */
  readonly claims?: string | undefined;
}

export interface PodLine {
  readonly port?: number;
  readonly from?: number;
  readonly step?: number;
}

const say = (line: PodLine): void => void writeSync(1, `${JSON.stringify(line)}\n`);

const { settings, host, folders, claims = paths.claims } = JSON.parse(process.argv[2] ?? "") as PodProcess;
const here = (path: string): string => path.replace(paths.claims, claims);
const trainer = await startTrainer(settings, {
  host,
  run: (given, ports, context) =>
    train(
      {
        ...given,
        model: here(given.model),
        data: here(given.data),
        out: here(given.out),
        result: given.result && here(given.result),
        ...folders,
      },
      {
        ...ports,
        onStart(start) {
          ports.onStart(start);
          say({ from: start.step });
        },
        onStep(report) {
          ports.onStep(report);
          say({ step: report.step });
        },
      },
      context,
    ),
});
say({ port: trainer.port });
await trainer.ended;
