// The check of a training job in a pod of its own before its ranks exist. Its end reports their needs, or the field at fault with a
// remedy.
import { writeFile } from "node:fs/promises";
import { AppError } from "../../../crds/common.ts";
import { parseQuantity } from "../../../crds/quantity.ts";
import type { CheckerSettings } from "../../../crds/training-process.ts";
import { type TrainingEnd, trainingEndText } from "../../../crds/training-report.ts";
import { createLog } from "../../observe/log.ts";
import { checkRun, type Feasible } from "../loop/feasible.ts";
import { jobMessage } from "./job-message.ts";
import { worldsOf } from "./job-settings.ts";

interface CheckOptions {
  readonly check?: typeof checkRun;
}

export async function checkJob(settings: CheckerSettings, { check = checkRun }: CheckOptions = {}): Promise<void> {
  const { namespace, job, endFile, logLevel } = settings;
  const log = createLog({ level: logLevel, name: "checker", fields: { namespace, job } });
  const end = await endOf(settings, check);
  log.info({ outcome: end.outcome, code: end.code, sizes: end.sizes }, end.message ?? "the check has ended");
  await writeFile(endFile, trainingEndText(end));
}

async function endOf({ spec, ranks, minRanks }: CheckerSettings, check: typeof checkRun): Promise<TrainingEnd> {
  try {
    const memory = parseQuantity(spec.memoryPerRank, "spec.memoryPerRank");
    const found = await check({ worlds: worldsOf(spec), ranks, minRanks, memory });
    return { outcome: "Fits", message: fitsText(found, String(spec.memoryPerRank)), ...(found.sizes && { sizes: found.sizes }) };
  } catch (caught) {
    const { code, message, retry } = AppError.from(caught, "checking the job");
    return { outcome: "Failed", code, message: jobMessage(message), retry: retry !== "never" };
  }
}

function fitsText({ asked, least }: Feasible, memory: string): string {
  const each = asked.ranks === 1 ? "1 rank needs" : `each of ${asked.ranks} ranks needs at most`;
  const reported = `${each} ${asked.text}; spec.memoryPerRank is ${memory}`;
  if (least.ranks === asked.ranks) return reported;
  const shortage = least.fits ? "" : ", which does not fit: they wait for others";
  return `${reported}; with spec.elasticity.minReplicas ${least.ranks}: ${least.text}${shortage}`;
}
